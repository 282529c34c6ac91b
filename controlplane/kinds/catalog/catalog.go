// SPDX-License-Identifier: Apache-2.0

// Package catalog lists every built-in kind that skep serves.
package catalog

import (
	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/admissionregistration"
	"skep.dev/skep/controlplane/kinds/apps"
	"skep.dev/skep/controlplane/kinds/coordination"
	"skep.dev/skep/controlplane/kinds/core"
	"skep.dev/skep/controlplane/kinds/discovery"
	"skep.dev/skep/controlplane/kinds/events"
	"skep.dev/skep/controlplane/kinds/flowcontrol"
	"skep.dev/skep/controlplane/kinds/networking"
	"skep.dev/skep/controlplane/kinds/policy"
	"skep.dev/skep/controlplane/kinds/rbac"
	"skep.dev/skep/controlplane/kinds/scheduling"
)

// Kinds returns the built-in kinds, one entry per resource, in the order of API discovery.
func Kinds() []kinds.Kind {
	return []kinds.Kind{
		core.Pod(),
		core.Service(),
		core.ConfigMap(),
		core.Secret(),
		core.Namespace(),
		core.Node(),
		core.ServiceAccount(),
		core.Endpoints(),
		core.Event(),
		events.Event(),
		apps.Deployment(),
		apps.ReplicaSet(),
		discovery.EndpointSlice(),
		networking.NetworkPolicy(),
		coordination.Lease(),
		admissionregistration.ValidatingAdmissionPolicy(),
		admissionregistration.ValidatingAdmissionPolicyBinding(),
		admissionregistration.MutatingAdmissionPolicy(),
		admissionregistration.MutatingAdmissionPolicyBinding(),
		admissionregistration.ValidatingWebhookConfiguration(),
		admissionregistration.MutatingWebhookConfiguration(),
		flowcontrol.FlowSchema(),
		flowcontrol.PriorityLevelConfiguration(),
		rbac.Role(),
		rbac.RoleBinding(),
		rbac.ClusterRole(),
		rbac.ClusterRoleBinding(),
		scheduling.PriorityClass(),
		policy.PodDisruptionBudget(),
	}
}
