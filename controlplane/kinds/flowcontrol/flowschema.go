// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"skep.dev/skep/controlplane/kinds"
)

// FlowSchema is the kind FlowSchema.
func FlowSchema() kinds.Kind {
	return kinds.Define(&flowcontrolv1.FlowSchemaList{}, kinds.Def[*flowcontrolv1.FlowSchema]{
		GroupVersion:  flowcontrolv1.SchemeGroupVersion,
		Kind:          "FlowSchema",
		Resource:      "flowschemas",
		ClusterScoped: true,
		HasStatus:     true,
	})
}
