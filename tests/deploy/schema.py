"""Validates TOML files by a JSON Schema; prints each mistake.

    schema.py SCHEMA FILE...
"""

import json
import sys
import tomllib

import jsonschema

schema_file, *files = sys.argv[1:]
with open(schema_file) as file:
    schema = json.load(file)
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
for name in files:
    with open(name, "rb") as file:
        config = tomllib.load(file)
    for error in validator.iter_errors(config):
        print(f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message}")
