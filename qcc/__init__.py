"""qcc: a quantizing compiler from ONNX to integer-only native libraries."""
