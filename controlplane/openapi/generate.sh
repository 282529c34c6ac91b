#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Writes zz_generated.openapi.go: the definitions of every group-version that is generally available, plus the
# packages those refer to (batch/v1 refers to scheduling/v1alpha3). Model names come from the API modules' own
# OpenAPIModelName methods; the generator only uses them when told a model-name file, and would write one into
# each package unless the package is read-only.
set -eu
cd "$(dirname "$0")"

packages="
k8s.io/api/admissionregistration/v1
k8s.io/api/apps/v1
k8s.io/api/authentication/v1
k8s.io/api/authorization/v1
k8s.io/api/autoscaling/v1
k8s.io/api/autoscaling/v2
k8s.io/api/batch/v1
k8s.io/api/certificates/v1
k8s.io/api/coordination/v1
k8s.io/api/core/v1
k8s.io/api/discovery/v1
k8s.io/api/events/v1
k8s.io/api/flowcontrol/v1
k8s.io/api/networking/v1
k8s.io/api/node/v1
k8s.io/api/policy/v1
k8s.io/api/rbac/v1
k8s.io/api/resource/v1
k8s.io/api/scheduling/v1
k8s.io/api/scheduling/v1alpha3
k8s.io/api/storage/v1
k8s.io/api/storagemigration/v1
k8s.io/apimachinery/pkg/api/resource
k8s.io/apimachinery/pkg/apis/meta/v1
k8s.io/apimachinery/pkg/runtime
k8s.io/apimachinery/pkg/util/intstr
k8s.io/apimachinery/pkg/version
k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1
k8s.io/kube-aggregator/pkg/apis/apiregistration/v1
"

readonly_flags=""
for p in $packages; do readonly_flags="$readonly_flags --readonly-pkg $p"; done

header=$(mktemp)
report=$(mktemp)
trap 'rm -f "$header" "$report"' EXIT
printf '// SPDX-License-Identifier: Apache-2.0\n\n' > "$header"

# shellcheck disable=SC2086 # the lists are split on purpose
go tool openapi-gen --go-header-file "$header" --output-dir . --output-pkg skep.dev/skep/controlplane/openapi \
	--output-file zz_generated.openapi.go --output-model-name-file zz_generated.model_name.go \
	--report-filename "$report" $readonly_flags $packages
