"""Answers of the agent against docs/openapi.yaml."""
import functools
import pathlib

import jsonschema
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


@functools.cache
def document():
    return yaml.safe_load((ROOT / "docs" / "openapi.yaml").read_text())


def operation(method, path):
    parts = path.split("?")[0].strip("/").split("/")
    for template, item in document()["paths"].items():
        names = template.strip("/").split("/")
        if len(names) == len(parts) and all(name.startswith("{") or name == part for name, part in zip(names, parts)):
            assert method.lower() in item, f"{method} {path} is not in docs/openapi.yaml"
            return item[method.lower()]
    raise AssertionError(f"{path} is not in docs/openapi.yaml")


def check(method, path, answer):
    """A success: one of those that are described for the operation."""
    resolver = jsonschema.RefResolver("", document())
    faults = []
    for status, response in operation(method, path)["responses"].items():
        if not status.startswith("2"):
            continue
        if "$ref" in response:
            response = resolver.resolve(response["$ref"])[1]
        schema = response.get("content", {}).get("application/json", {}).get("schema")
        if schema is None:
            continue
        try:
            jsonschema.Draft202012Validator(schema, resolver=resolver).validate(answer)
            return
        except jsonschema.ValidationError as error:
            faults.append(f"{status}: {error.message} at {list(error.absolute_path)}")
    raise AssertionError(f"{method} {path} answered what docs/openapi.yaml does not describe: {faults}")
