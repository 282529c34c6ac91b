// SPDX-License-Identifier: Apache-2.0

package core

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds"
	"skep.dev/skep/controlplane/kinds/check"
)

// Node is the kind Node.
func Node() kinds.Kind {
	return kinds.Define(&corev1.NodeList{}, kinds.Def[*corev1.Node]{
		GroupVersion:         corev1.SchemeGroupVersion,
		Kind:                 "Node",
		Resource:             "nodes",
		ShortNames:           []string{"no"},
		ClusterScoped:        true,
		HasStatus:            true,
		StoragePrefix:        "minions",
		NoGeneration:         true,
		Default:              defaultNode,
		Validate:             validateNode,
		ValidateUpdate:       validateNodeUpdate,
		ValidateStatusUpdate: func(n, _ *corev1.Node) field.ErrorList { return validateNodeStatus(n) },
		Columns:              nodeColumns,
		Row:                  nodeRow,
		Fields: func(n *corev1.Node) fields.Set {
			return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
		},
		FieldNames: []string{"spec.unschedulable"},
	})
}

// defaultNode keeps podCIDR and the first of podCIDRs equal, and allows what the node has when it does not say less.
func defaultNode(n *corev1.Node) {
	switch {
	case n.Spec.PodCIDR != "" && len(n.Spec.PodCIDRs) == 0:
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	case n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0:
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
	roundResources(n.Status.Capacity)
	roundResources(n.Status.Allocatable)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	errs := validateTaints(n.Spec.Taints, field.NewPath("spec", "taints"))
	errs = append(errs, validatePodCIDRs(&n.Spec, field.NewPath("spec", "podCIDRs"))...)
	return append(errs, validateNodeStatus(n)...)
}

func validateNodeStatus(n *corev1.Node) field.ErrorList {
	path := field.NewPath("status")
	name := func(name string, path *field.Path) field.ErrorList { return ValidateResourceName(name, path) }
	errs := validateAmounts(n.Status.Capacity, path.Child("capacity"), name)
	errs = append(errs, validateAmounts(n.Status.Allocatable, path.Child("allocatable"), name)...)
	seen := sets.New[corev1.NodeAddress]()
	for i, address := range n.Status.Addresses {
		if seen.Has(address) {
			errs = append(errs, field.Duplicate(path.Child("addresses").Index(i), address))
		}
		seen.Insert(address)
	}
	return errs
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := validateNode(n)
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	return errs
}

func validateTaints(taints []corev1.Taint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	type identity struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := sets.New[identity]()
	for i, t := range taints {
		at := path.Index(i)
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		if messages := validation.IsValidLabelValue(t.Value); len(messages) > 0 {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, strings.Join(messages, ";")))
		}
		errs = append(errs, check.OneOf(at.Child("effect"), t.Effect,
			corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
		id := identity{t.Key, t.Effect}
		if seen.Has(id) {
			duplicate := field.Duplicate(at, t)
			duplicate.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, duplicate)
		}
		seen.Insert(id)
	}
	return errs
}

func validatePodCIDRs(spec *corev1.NodeSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	families := map[bool]int{}
	for i, cidr := range spec.PodCIDRs {
		bad := validation.IsValidCIDRForLegacyField(path.Index(i), cidr, false, nil)
		errs = append(errs, bad...)
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			families[prefix.Addr().Is4()]++
		}
	}
	if len(spec.PodCIDRs) > 1 && (len(spec.PodCIDRs) > 2 || families[true] != 1 || families[false] != 1) {
		errs = append(errs, field.Invalid(path, spec.PodCIDRs, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

var (
	nodeInfoDoc = corev1.NodeSystemInfo{}.SwaggerDoc()
	nodeColumns = []metav1.TableColumnDefinition{
		kinds.NameColumn(),
		kinds.Column("Status", "string", "The status of the node"),
		kinds.Column("Roles", "string", "The roles of the node"),
		kinds.AgeColumn(),
		kinds.Column("Version", "string", nodeInfoDoc["kubeletVersion"]),
		kinds.WideColumn("Internal-IP", "string", corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
		kinds.WideColumn("External-IP", "string", corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
		kinds.WideColumn("OS-Image", "string", nodeInfoDoc["osImage"]),
		kinds.WideColumn("Kernel-Version", "string", nodeInfoDoc["kernelVersion"]),
		kinds.WideColumn("Container-Runtime", "string", nodeInfoDoc["containerRuntimeVersion"]),
	}
)

func nodeRow(n *corev1.Node) []any {
	info := n.Status.NodeInfo
	unknown := func(s string) string {
		if s == "" {
			return "<unknown>"
		}
		return s
	}
	return []any{n.Name, nodeStatus(n), orNone(nodeRoles(n)), kinds.Age(n.CreationTimestamp), info.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		unknown(info.OSImage), unknown(info.KernelVersion), unknown(info.ContainerRuntimeVersion)}
}

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		status = "NotReady"
		if c.Status == corev1.ConditionTrue {
			status = "Ready"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

const nodeRolePrefix = "node-role.kubernetes.io/"

func nodeRoles(n *corev1.Node) string {
	roles := sets.New[string]()
	for label, value := range n.Labels {
		if role, ok := strings.CutPrefix(label, nodeRolePrefix); ok && role != "" {
			roles.Insert(role)
		} else if label == "kubernetes.io/role" && value != "" {
			roles.Insert(value)
		}
	}
	return strings.Join(sets.List(roles), ",")
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return none
}
