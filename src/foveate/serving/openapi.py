"""What OpenAPI says about bodies and errors, which FastAPI cannot read from the routes."""

from __future__ import annotations

from typing import Any

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_ERROR = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {"error": {"type": "string", "description": "One sentence."}},
            "required": ["error"],
        }
    }
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": _ERROR}
    for status, text in {
        400: "The request, or an image in it, is invalid or takes too much.",
        401: "The token is missing or wrong.",
        404: "There is no model of this name.",
        408: "The body did not arrive in time.",
        413: "The body is too large.",
        421: "The server has another name than the header Host says.",
        429: "Too many requests or images are in flight; try again later.",
        503: "The server is shutting down.",
    }.items()
}
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "An encoded image, or a form with one file.",
        "content": {
            "image/*": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
}
TENSOR_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A request of the Open Inference Protocol; bytes may follow its JSON.",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "name": {"const": "image"},
                                    "datatype": {"const": "BYTES"},
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "data": {"type": "array", "items": {"type": "string"}},
                                    "parameters": {"type": "object"},
                                },
                                "required": ["name", "datatype", "shape"],
                            },
                        },
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                    "required": ["inputs"],
                }
            },
            "application/octet-stream": _BINARY,
        },
    }
}
