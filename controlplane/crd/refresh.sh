#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Takes the definition out of the module that go.mod names (Apache-2.0). Run it after a new version; never edit the copy.
set -eu
cd "$(dirname "$0")"
module=$(go list -m -f '{{.Dir}}' sigs.k8s.io/network-policy-api)
file=policy.networking.k8s.io_clusternetworkpolicies.yaml
cp "$module/config/crd/experimental/$file" "$file"
chmod 644 "$file"
