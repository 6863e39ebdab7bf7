"""Which dropout, at which rate, helps a model on its data: the comparison, its figure, its command line."""
