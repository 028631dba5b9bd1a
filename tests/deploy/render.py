"""Renders folders of deploy/kustomize and validates what comes of them; prints all objects as JSON, by folder.

    render.py KUBECTL VERSION[,VERSION] FOLDER...
"""

import json
import subprocess
import sys

import kubernetes_validate
import yaml

# Each has a schema of its own: see custom.mjs.
CUSTOM = ("cilium.io/", "monitoring.coreos.com/")

kubectl, versions, *folders = sys.argv[1:]
rendered = {}
for folder in folders:
    text = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, text=True).stdout
    objects = [each for each in yaml.safe_load_all(text) if each]
    for each in objects:
        if each["apiVersion"].startswith(CUSTOM):
            continue
        for version in versions.split(","):
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                name = f"{each['kind']} {each['metadata']['name']}"
                sys.exit(f"{folder}: {name} is not valid in {version}: {error.message} at {list(error.path)}")
    rendered[folder] = objects
json.dump(rendered, sys.stdout)
