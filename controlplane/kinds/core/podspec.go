// SPDX-License-Identifier: Apache-2.0

package core

import (
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds/check"
)

// ValidatePodTemplate checks the template of a workload.
func ValidatePodTemplate(t *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabels(t.Labels, path.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	errs = append(errs, validatePodSpec(&t.Spec, path.Child("spec"), isTemplate)...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// A specUse says whose spec is validated: some rules bind only a pod that is about to run.
type specUse bool

const (
	isTemplate specUse = false
	isPod      specUse = true
)

// validatePodSpec checks a spec after defaulting.
func validatePodSpec(spec *corev1.PodSpec, path *field.Path, use specUse) field.ErrorList {
	volumes, errs := validateVolumes(spec.Volumes, path.Child("volumes"))
	errs = append(errs, validateContainers(spec, volumes, path, use)...)
	errs = append(errs, validateRestartPolicy(spec.RestartPolicy, path.Child("restartPolicy"))...)
	errs = append(errs, validateDNS(spec, path)...)
	errs = append(errs, metav1validation.ValidateLabels(spec.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, validatePodSecurity(spec, path)...)
	errs = append(errs, validateNamesInSpec(spec, path)...)
	errs = append(errs, validateAffinity(spec.Affinity, path.Child("affinity"))...)
	errs = append(errs, validateTolerations(spec.Tolerations, path.Child("tolerations"))...)
	errs = append(errs, validateSpread(spec.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))...)
	errs = append(errs, validateHostAliases(spec.HostAliases, path.Child("hostAliases"))...)
	errs = append(errs, validateGates(spec, path)...)
	if seconds := spec.ActiveDeadlineSeconds; seconds != nil && (*seconds < 1 || *seconds > math.MaxInt32) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *seconds, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	if spec.Resources != nil {
		errs = append(errs, validatePodResources(spec, path.Child("resources"))...)
	}
	for name, quantity := range spec.Overhead {
		errs = append(errs, validateQuantity(string(name), quantity, path.Child("overhead").Key(string(name)))...)
	}
	return errs
}

func validateRestartPolicy(policy corev1.RestartPolicy, path *field.Path) field.ErrorList {
	return check.OneOf(path, policy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
}

func validateDNS(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	errs := check.OneOf(path.Child("dnsPolicy"), spec.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	path = path.Child("dnsConfig")
	config := spec.DNSConfig
	if spec.DNSPolicy == corev1.DNSNone {
		if config == nil {
			return append(errs, field.Required(path, "must provide `dnsConfig` when `dnsPolicy` is None"))
		}
		if len(config.Nameservers) == 0 {
			return append(errs, field.Required(path.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"))
		}
	}
	if config == nil {
		return errs
	}
	return append(errs, validateDNSConfig(config, path)...)
}

func validateDNSConfig(config *corev1.PodDNSConfig, path *field.Path) field.ErrorList {
	const maxNameservers, maxSearches, maxSearchChars = 3, 32, 2048
	var errs field.ErrorList
	if n := len(config.Nameservers); n > maxNameservers {
		errs = append(errs, field.Invalid(path.Child("nameservers"), config.Nameservers, "must not have more than 3 nameservers"))
	}
	for i, server := range config.Nameservers {
		errs = append(errs, validation.IsValidIP(path.Child("nameservers").Index(i), server)...)
	}
	if len(config.Searches) > maxSearches {
		errs = append(errs, field.Invalid(path.Child("searches"), config.Searches, "must not have more than 32 search paths"))
	}
	if len(strings.Join(config.Searches, " ")) > maxSearchChars {
		errs = append(errs, field.Invalid(path.Child("searches"), config.Searches,
			"must not have more than 2048 characters (including spaces) in the search list"))
	}
	for i, search := range config.Searches {
		// "." and a trailing dot are how resolv.conf says "absolute".
		name := strings.TrimSuffix(search, ".")
		if name != "" {
			errs = append(errs, check.Invalid(path.Child("searches").Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(name))...)
		}
	}
	for i, option := range config.Options {
		if option.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

func validateNamesInSpec(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	subdomain := func(name, value string) {
		if value != "" {
			errs = append(errs, check.Invalid(path.Child(name), value, validation.IsDNS1123Subdomain(value))...)
		}
	}
	label := func(name, value string) {
		if value != "" {
			errs = append(errs, check.Invalid(path.Child(name), value, validation.IsDNS1123Label(value))...)
		}
	}
	subdomain("serviceAccountName", spec.ServiceAccountName)
	subdomain("nodeName", spec.NodeName)
	subdomain("priorityClassName", spec.PriorityClassName)
	label("hostname", spec.Hostname)
	label("subdomain", spec.Subdomain)
	if spec.RuntimeClassName != nil {
		errs = append(errs, check.Invalid(path.Child("runtimeClassName"), *spec.RuntimeClassName, validation.IsDNS1123Subdomain(*spec.RuntimeClassName))...)
	}
	if spec.SchedulerName != "" {
		errs = append(errs, check.Invalid(path.Child("schedulerName"), spec.SchedulerName, validation.IsDNS1123Subdomain(spec.SchedulerName))...)
	}
	if spec.PreemptionPolicy != nil {
		errs = append(errs, check.OneOf(path.Child("preemptionPolicy"), *spec.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	if spec.OS != nil {
		errs = append(errs, check.OneOf(path.Child("os", "name"), spec.OS.Name, corev1.Linux, corev1.Windows)...)
	}
	return errs
}

func validateHostAliases(aliases []corev1.HostAlias, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, alias := range aliases {
		errs = append(errs, validation.IsValidIP(path.Index(i).Child("ip"), alias.IP)...)
		for j, name := range alias.Hostnames {
			errs = append(errs, check.Invalid(path.Index(i).Child("hostnames").Index(j), name, validation.IsDNS1123Subdomain(name))...)
		}
	}
	return errs
}

func validateGates(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, gate := range spec.ReadinessGates {
		errs = append(errs, check.Invalid(path.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType),
			validation.IsQualifiedName(string(gate.ConditionType)))...)
	}
	seen := sets.New[string]()
	for i, gate := range spec.SchedulingGates {
		at := path.Child("schedulingGates").Index(i)
		errs = append(errs, check.Invalid(at, gate.Name, validation.IsQualifiedName(gate.Name))...)
		if seen.Has(gate.Name) {
			errs = append(errs, field.Duplicate(at, gate.Name))
		}
		seen.Insert(gate.Name)
	}
	if spec.NodeName != "" && len(spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return errs
}
