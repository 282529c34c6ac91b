// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"skep.dev/skep/controlplane/kinds"
)

// PriorityLevelConfiguration is the kind PriorityLevelConfiguration.
func PriorityLevelConfiguration() kinds.Kind {
	return kinds.Define(&flowcontrolv1.PriorityLevelConfigurationList{}, kinds.Def[*flowcontrolv1.PriorityLevelConfiguration]{
		GroupVersion:  flowcontrolv1.SchemeGroupVersion,
		Kind:          "PriorityLevelConfiguration",
		Resource:      "prioritylevelconfigurations",
		ClusterScoped: true,
		HasStatus:     true,
	})
}
