"""Files as torch.save writes them, and what is in them, for test/heads/convert/torch-file.test.ts.

    python3 torch-files.py FOLDER

Writes FOLDER/*.pt and FOLDER/expected.json: by file, either tensors by name (dtype, shape, bytes in hex) or words that the refusal must have.
With PyTorch installed they are its own. Without, the same pickler of Python writes stand-ins of PyTorch's classes, under their names, into
zip archives laid out as PyTorch's are: FOLDER/data.pkl, FOLDER/byteorder, FOLDER/data/0, …, all stored, each beginning at a multiple of 64.
"""

import collections
import io
import json
import os
import pickle
import struct
import sys
import types
import zipfile

try:
    import torch
except ImportError:
    torch = None

DTYPES = {"F32": ("FloatStorage", 4), "F16": ("HalfStorage", 2), "BF16": ("BFloat16Storage", 2), "I64": ("LongStorage", 8)}


# --- stand-ins, used when there is no PyTorch ---


class Storage:
    def __init__(self, dtype, data):
        self.dtype, self.data = dtype, data


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def __reduce_ex__(self, protocol):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        hooks = collections.OrderedDict()
        return rebuild, (self.storage, self.offset, tuple(self.shape), tuple(self.strides), False, hooks)


class Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce_ex__(self, protocol):
        return sys.modules["torch._utils"]._rebuild_parameter, (self.tensor, True, collections.OrderedDict())


def pretend():
    """Modules with the names that pickles have."""
    for module, names in {
        "torch": [storage for storage, _ in DTYPES.values()],
        "torch._utils": ["_rebuild_tensor_v2", "_rebuild_parameter"],
    }.items():
        sys.modules[module] = types.ModuleType(module)
        for name in names:
            stand_in = type(name, (), {}) if module == "torch" else types.FunctionType((lambda: None).__code__, {}, name)
            stand_in.__module__, stand_in.__qualname__ = module, name
            setattr(sys.modules[module], name, stand_in)


class Pickler(pickle.Pickler):
    def __init__(self, file, protocol):
        super().__init__(file, protocol)
        self.storages = {}

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        key = self.storages.setdefault(id(value), (str(len(self.storages)), value))[0]
        name, width = DTYPES[value.dtype]
        return ("storage", getattr(sys.modules["torch"], name), key, "cpu", len(value.data) // width)


def save(value, path, protocol=2):
    if torch:
        torch.save(value, path, pickle_protocol=protocol)
        return
    buffer = io.BytesIO()
    pickler = Pickler(buffer, protocol)
    pickler.dump(value)
    root = os.path.splitext(os.path.basename(path))[0]
    records = [("data.pkl", buffer.getvalue()), ("byteorder", b"little")]
    records += [("data/" + key, storage.data) for key, storage in pickler.storages.values()] + [("version", b"3\n")]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records:
            info = zipfile.ZipInfo(f"{root}/{name}")
            padding = -(archive.fp.tell() + 30 + len(info.filename) + 4) % 64
            info.extra = struct.pack("<HH", 0x4246, padding) + b"Z" * padding
            archive.writestr(info, data)


# --- the same for both ---


def tensor(dtype, shape, first=0):
    """Whole numbers from `first` on, which every dtype holds exactly up to 255."""
    count = 1
    for size in shape:
        count *= size
    values = range(first, first + count)
    if torch:
        kinds = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
        return torch.tensor(list(values)).to(kinds[dtype]).reshape(shape)
    if dtype == "BF16":
        data = b"".join(struct.pack("<f", value)[2:] for value in values)
    else:
        data = struct.pack("<%d%s" % (count, {"F32": "f", "F16": "e", "I64": "q"}[dtype]), *values)
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return Tensor(Storage(dtype, data), 0, shape, strides)


def rows(matrix, begin, end):
    """A view of some rows, in the same storage."""
    if torch:
        return matrix[begin:end]
    width = matrix.shape[1]
    return Tensor(matrix.storage, begin * width, [end - begin, width], matrix.strides)


def transposed(matrix):
    if torch:
        return matrix.t()
    return Tensor(matrix.storage, matrix.offset, matrix.shape[::-1], matrix.strides[::-1])


def parameter(value):
    return torch.nn.Parameter(value) if torch else Parameter(value)


def described(dtype, shape, value):
    if torch:
        data = value.contiguous().view(torch.uint8).numpy().tobytes()
    else:
        width = DTYPES[dtype][1]
        begin, count = value.offset * width, width
        for size in shape:
            count *= size
        data = value.storage.data[begin : begin + count]
    return {"dtype": dtype, "shape": shape, "data": data.hex()}


def main(folder):
    if not torch:
        pretend()
    os.makedirs(folder, exist_ok=True)
    expected = {}

    def write(name, value, tensors, **options):
        save(value, os.path.join(folder, name), **options)
        expected[name] = {"tensors": {key: described(*one) for key, one in tensors.items()}}

    shapes = {"0.0.linear.weight": [4, 4], "0.0.linear.bias": [4], "0.1.weight": [7, 4]}
    for dtype in ["F32", "F16", "BF16"]:
        tensors = {key: (dtype, shape, tensor(dtype, shape, at)) for at, (key, shape) in enumerate(shapes.items())}
        write(f"flat-{dtype.lower()}.pt", {key: one[2] for key, one in tensors.items()}, tensors)
    for protocol in [2, 3, 4]:
        write(f"protocol-{protocol}.pt", {key: one[2] for key, one in tensors.items()}, tensors, protocol=protocol)

    # As a module's state_dict() is: ordered, with attributes.
    ordered = collections.OrderedDict((key, one[2]) for key, one in tensors.items())
    ordered._metadata = collections.OrderedDict([("", {"version": 1})])
    write("ordered.pt", ordered, tensors)
    write("checkpoint.pt", {"epoch": 3, "loss": 0.5, "state_dict": ordered, "optimizer": {"lr": 1e-3, "steps": [1]}}, tensors)
    write("parallel.pt", {f"module.{key}": one[2] for key, one in tensors.items()}, tensors)
    write("parameters.pt", {key: parameter(one[2]) for key, one in tensors.items()}, tensors)

    both = tensor("F32", [6, 3])
    views = {"0.0.weight": ("F32", [4, 3], rows(both, 2, 6)), "1.0.weight": ("F32", [4, 3], rows(both, 0, 4))}
    write("shared.pt", {key: one[2] for key, one in views.items()}, views)
    mapped = {"0.0.weight": ("F16", [3, 2], tensor("F16", [3, 2])), "token_map": ("I64", [3], tensor("I64", [3], 5))}
    write("mapped.pt", {key: one[2] for key, one in mapped.items()}, mapped)
    nothing = {"0.0.weight": ("F32", [0, 3], tensor("F32", [0, 3]))}
    write("empty-tensor.pt", {key: one[2] for key, one in nothing.items()}, nothing)

    def refused(name, value, says):
        save(value, os.path.join(folder, name))
        expected[name] = {"refused": says}

    refused("transposed.pt", {"0.0.weight": transposed(tensor("F32", [2, 3]))}, "not contiguous")
    refused("alone.pt", tensor("F32", [2, 3]), "no tensors by name")
    # What a pickle can do to whoever loads it.
    refused("command.pt", {"0.0.weight": Command()}, "asks for posix.system")
    if torch:
        old = os.path.join(folder, "before-1.6.pt")
        torch.save(ordered, old, _use_new_zipfile_serialization=False)
        expected["before-1.6.pt"] = {"refused": "before 1.6"}

    with open(os.path.join(folder, "expected.json"), "w") as file:
        json.dump({"torch": torch.__version__ if torch else None, "files": expected}, file)


class Command:
    def __reduce__(self):
        return os.system, ("touch was-run",)


main(sys.argv[1])
