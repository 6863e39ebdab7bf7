"""Audits models of sixteen families of keras.applications, which have no fault: `python benchmarks/families.py`.

Most have no dropout of their own: each is given one before its head. A problem that is printed is a false alarm.
"""

import time

import keras

import keras_dropouts as kd

FAMILIES = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "ResNet101": 32,
    "VGG16": 32,
    "VGG19": 32,
    "Xception": 71,
}


def main():
    alarms = 0
    for name, size in FAMILIES.items():
        keras.utils.set_random_seed(0)
        try:
            family = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(size, size, 3))
        except ValueError as error:
            # Keras makes some for one backend only.
            print(f"{name}: not made. {' '.join(str(error).split())[:80]}")
            continue
        x = kd.Dropout(0.3, name="head_dropout")(keras.layers.GlobalAveragePooling2D()(family.output))
        model = keras.Model(family.input, keras.layers.Dense(10, "softmax")(x))
        start = time.perf_counter()
        found = kd.audit(model)
        seconds = time.perf_counter() - start
        assert found.layers[-1].path == "head_dropout" and found.layers[-1].fit
        alarms += len(found.problems)
        print(f"{name}: {len(found.layers)} layers that draw, {seconds:.1f} s", *found.problems, sep="\n  ", flush=True)
    print(f"{alarms} false alarms on {keras.backend.backend()}")


if __name__ == "__main__":
    main()
