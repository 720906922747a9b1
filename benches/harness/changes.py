"""What changes under a running sidecar: files that are saved, modules that are new, and the moment from which they are in use."""

import urllib.request


def save(path, content):
    """As editors do, and Kubernetes: whole or not at all."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.rename(path)


def versioned(module, number):
    """The same code with another custom section: another module, to whoever compares bytes."""
    name, content = b"version", str(number).encode()
    section = bytes([len(name)]) + name + content
    return module + b"\0" + bytes([len(section)]) + section


def metrics(admin):
    """All samples of a sidecar, by the whole name with its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))}


def total(samples, name):
    """Of all samples of this name, whatever their labels."""
    return sum(value for sample, value in samples.items() if sample.split("{")[0] == name)


def generation(admin):
    """The number of the configuration in use."""
    return total(metrics(admin), "lacis_config_generation")
