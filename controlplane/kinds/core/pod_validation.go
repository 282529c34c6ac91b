// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds/check"
)

var podSpecPath = field.NewPath("spec")

func validatePod(pod *corev1.Pod) field.ErrorList {
	errs := validatePodSpec(&pod.Spec, podSpecPath, isPod)
	if len(pod.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(podSpecPath.Child("ephemeralContainers"), "cannot be set on create"))
	}
	return errs
}

// validatePodUpdate allows what a running pod can follow, and nothing else.
func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	errs := validatePodSpec(&pod.Spec, podSpecPath, isPod)
	if len(pod.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(podSpecPath.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(podSpecPath.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	errs = append(errs, validateDeadlineUpdate(pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds)...)
	errs = append(errs, validateAddedTolerations(pod.Spec.Tolerations, old.Spec.Tolerations, podSpecPath.Child("tolerations"))...)
	errs = append(errs, validateRemovedGates(pod, old)...)
	return append(errs, validateUnchangedSpec(pod, old)...)
}

const mutablePodFields = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`," +
	"`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validateUnchangedSpec takes the allowed changes back in a copy and compares what is left.
func validateUnchangedSpec(pod, old *corev1.Pod) field.ErrorList {
	kept := pod.Spec.DeepCopy()
	for i := range kept.Containers {
		kept.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range kept.InitContainers {
		kept.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	kept.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	kept.Tolerations = old.Spec.Tolerations
	kept.SchedulingGates = old.Spec.SchedulingGates
	if g := old.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 &&
		kept.TerminationGracePeriodSeconds != nil && *kept.TerminationGracePeriodSeconds == 1 {
		kept.TerminationGracePeriodSeconds = g
	}
	if len(old.Spec.SchedulingGates) > 0 && addsOnly(kept.NodeSelector, old.Spec.NodeSelector) {
		// A gated pod has not been looked at by the scheduler yet, so it may be narrowed.
		kept.NodeSelector = old.Spec.NodeSelector
	}
	if equality.Semantic.DeepEqual(*kept, old.Spec) {
		return nil
	}
	return field.ErrorList{field.Forbidden(podSpecPath, mutablePodFields+"\n"+diff.Diff(old.Spec, *kept))}
}

func addsOnly(labels, old map[string]string) bool {
	for key, value := range old {
		if now, ok := labels[key]; !ok || now != value {
			return false
		}
	}
	return true
}

func validateDeadlineUpdate(now, old *int64) field.ErrorList {
	path := podSpecPath.Child("activeDeadlineSeconds")
	switch {
	case old == nil:
		return nil
	case now == nil:
		return field.ErrorList{field.Invalid(path, now, "must not update from a positive integer to nil value")}
	case *now > *old:
		return field.ErrorList{field.Invalid(path, *now, "must be less than or equal to previous value")}
	}
	return nil
}

// validateAddedTolerations: an existing toleration may change only for how long it tolerates.
func validateAddedTolerations(now, old []corev1.Toleration, path *field.Path) field.ErrorList {
	for _, o := range old {
		found := false
		for _, n := range now {
			n.TolerationSeconds = o.TolerationSeconds
			if n == o {
				found = true
				break
			}
		}
		if !found {
			return field.ErrorList{field.Forbidden(path, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

func validateRemovedGates(pod, old *corev1.Pod) field.ErrorList {
	had := sets.New[string]()
	for _, gate := range old.Spec.SchedulingGates {
		had.Insert(gate.Name)
	}
	var errs field.ErrorList
	for i, gate := range pod.Spec.SchedulingGates {
		if !had.Has(gate.Name) {
			errs = append(errs, field.Forbidden(podSpecPath.Child("schedulingGates").Index(i).Child("name"),
				fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", gate.Name)))
		}
	}
	return errs
}

// validatePodStatusUpdate checks what the node reports.
func validatePodStatusUpdate(pod, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("status")
	errs := validateConditionNames(pod.Status.Conditions, path.Child("conditions"))
	if name := pod.Status.NominatedNodeName; name != "" {
		errs = append(errs, check.Invalid(path.Child("nominatedNodeName"), name, validation.IsDNS1123Subdomain(name))...)
	}
	errs = append(errs, validateTransitions(pod, old, path.Child("containerStatuses"))...)
	errs = append(errs, validatePodIPs(pod.Status.PodIPs, path.Child("podIPs"))...)
	if len(pod.Status.PodIPs) > 0 && pod.Status.PodIP != pod.Status.PodIPs[0].IP {
		errs = append(errs, field.Invalid(path.Child("podIPs").Index(0).Child("ip"), pod.Status.PodIPs[0].IP, "must be equal to `podIP`"))
	}
	return append(errs, apivalidation.ValidateImmutableField(pod.Status.QOSClass, old.Status.QOSClass, path.Child("qosClass"))...)
}

func validateConditionNames(conditions []corev1.PodCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	builtin := sets.New(corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized, corev1.ContainersReady, corev1.DisruptionTarget)
	for i, c := range conditions {
		if builtin.Has(c.Type) {
			continue
		}
		errs = append(errs, check.Invalid(path.Index(i).Child("Type"), string(c.Type), validation.IsQualifiedName(string(c.Type)))...)
	}
	return errs
}

// validateTransitions: a container that has ended for good cannot run again.
func validateTransitions(pod, old *corev1.Pod, path *field.Path) field.ErrorList {
	if old.Spec.RestartPolicy == corev1.RestartPolicyAlways {
		return nil
	}
	ended := map[string]bool{}
	for _, s := range old.Status.ContainerStatuses {
		t := s.State.Terminated
		ended[s.Name] = t != nil && (t.ExitCode == 0 || old.Spec.RestartPolicy != corev1.RestartPolicyOnFailure)
	}
	var errs field.ErrorList
	for i, s := range pod.Status.ContainerStatuses {
		if ended[s.Name] && s.State.Terminated == nil {
			errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
		}
	}
	return errs
}

func validatePodIPs(ips []corev1.PodIP, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	families, seen := map[bool]int{}, sets.New[string]()
	for i, ip := range ips {
		at := path.Index(i)
		bad := validation.IsValidIP(at, ip.IP)
		errs = append(errs, bad...)
		if len(bad) == 0 {
			families[strings.Contains(ip.IP, ":")]++
		}
		if seen.Has(ip.IP) {
			errs = append(errs, field.Duplicate(at, ip))
		}
		seen.Insert(ip.IP)
	}
	if families[true] > 1 || families[false] > 1 {
		errs = append(errs, field.Invalid(path, ips, "may specify no more than one IP for each IP family"))
	}
	return errs
}
