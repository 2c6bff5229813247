"""What schemathesis must not do to the lab it runs against: take away the key it calls with."""

import os

import schemathesis

OWN = "ak_" + os.environ["EBBGATE_API_KEY"].split("_")[0]


@schemathesis.hook
def filter_case(context, case):
    path = case.operation.path
    return not (path.startswith("/api_keys/{id}") and (case.path_parameters or {}).get("id") == OWN)
