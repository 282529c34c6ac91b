// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"

	"skep.dev/skep/controlplane/kinds/check"
)

var (
	containerResources = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)
	standardResources  = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceStorage, corev1.ResourcePods, corev1.ResourceServices, corev1.ResourceSecrets, corev1.ResourceConfigMaps)
	integerResources = sets.New(corev1.ResourcePods, corev1.ResourceServices, corev1.ResourceSecrets, corev1.ResourceConfigMaps)
)

func validateResources(r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	limits, requests := path.Child("limits"), path.Child("requests")
	errs := validateAmounts(r.Limits, limits, validateContainerResourceName)
	errs = append(errs, validateAmounts(r.Requests, requests, validateContainerResourceName)...)
	for name, asked := range r.Requests {
		errs = append(errs, compareWithLimit(name, asked, r.Limits, requests, limits)...)
	}
	return append(errs, validateHugePages(r, path)...)
}

// validatePodResources checks the resources of a pod as a whole.
func validatePodResources(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	supported := func(name string, path *field.Path) field.ErrorList {
		if !resourcehelper.IsSupportedPodLevelResource(corev1.ResourceName(name)) {
			return field.ErrorList{field.NotSupported(path, name, []string{"cpu", "hugepages-", "memory"})}
		}
		return nil
	}
	r := spec.Resources
	limits, requests := path.Child("limits"), path.Child("requests")
	errs := validateAmounts(r.Limits, limits, supported)
	errs = append(errs, validateAmounts(r.Requests, requests, supported)...)
	for name, asked := range r.Requests {
		errs = append(errs, compareWithLimit(name, asked, r.Limits, requests, limits)...)
	}
	if len(r.Claims) > 0 {
		errs = append(errs, field.Forbidden(path.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	total := resourcehelper.AggregateContainerRequests(&corev1.Pod{Spec: *spec}, resourcehelper.PodResourcesOptions{})
	for name, asked := range r.Requests {
		if sum := total[name]; sum.Cmp(asked) > 0 {
			errs = append(errs, field.Invalid(requests.Key(string(name)), asked.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String())))
		}
	}
	return errs
}

func validateAmounts(list corev1.ResourceList, path *field.Path, validateName func(string, *field.Path) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	for name, quantity := range list {
		at := path.Key(string(name))
		errs = append(errs, validateName(string(name), at)...)
		errs = append(errs, validateQuantity(string(name), quantity, at)...)
	}
	return errs
}

// ValidateResourceName checks the form of a resource name.
func ValidateResourceName(name string, path *field.Path) field.ErrorList {
	errs := check.Invalid(path, name, validation.IsQualifiedName(name))
	if len(errs) == 0 && !strings.Contains(name, "/") && !isHugePages(corev1.ResourceName(name)) &&
		!standardResources.Has(corev1.ResourceName(name)) && !strings.HasPrefix(name, "attachable-volumes-") {
		errs = append(errs, field.Invalid(path, name, "must be a standard resource type or fully qualified"))
	}
	return errs
}

func validateContainerResourceName(name string, path *field.Path) field.ErrorList {
	if errs := check.Invalid(path, name, validation.IsQualifiedName(name)); len(errs) > 0 {
		return errs
	}
	if !strings.Contains(name, "/") {
		if !containerResources.Has(corev1.ResourceName(name)) && !isHugePages(corev1.ResourceName(name)) {
			return field.ErrorList{field.Invalid(path, name, "must be a standard resource for containers")}
		}
		return nil
	}
	if strings.Contains(name, "kubernetes.io/") || !isExtended(corev1.ResourceName(name)) {
		return field.ErrorList{field.Invalid(path, name, "doesn't follow extended resource name standard")}
	}
	return nil
}

func validateQuantity(name string, q resource.Quantity, path *field.Path) field.ErrorList {
	errs := nonNegativeQuantity(q, path)
	if (integerResources.Has(corev1.ResourceName(name)) || isExtended(corev1.ResourceName(name))) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(path, q.String(), "must be an integer"))
	}
	return errs
}

func nonNegativeQuantity(q resource.Quantity, path *field.Path) field.ErrorList {
	if q.Sign() < 0 {
		return field.ErrorList{field.Invalid(path, q.String(), apivalidation.IsNegativeErrorMsg)}
	}
	return nil
}

// compareWithLimit refuses a request above its limit, and for what cannot be shared out twice any difference.
func compareWithLimit(name corev1.ResourceName, asked resource.Quantity, limits corev1.ResourceList, requestPath, limitPath *field.Path) field.ErrorList {
	limit, limited := limits[name]
	switch {
	case limited && asked.Cmp(limit) != 0 && !canOvercommit(name):
		return field.ErrorList{field.Invalid(requestPath, asked.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String()))}
	case limited && asked.Cmp(limit) > 0:
		return field.ErrorList{field.Invalid(requestPath, asked.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String()))}
	case !limited && !canOvercommit(name):
		return field.ErrorList{field.Required(limitPath, "Limit must be set for non overcommitable resources")}
	}
	return nil
}

func validateHugePages(r *corev1.ResourceRequirements, path *field.Path) field.ErrorList {
	var huge, other bool
	for _, list := range []corev1.ResourceList{r.Limits, r.Requests} {
		for name := range list {
			huge = huge || isHugePages(name)
			other = other || name == corev1.ResourceCPU || name == corev1.ResourceMemory
		}
	}
	if huge && !other {
		return field.ErrorList{field.Forbidden(path, "HugePages require cpu or memory")}
	}
	return nil
}

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isExtended reports whether name is a resource that nodes advertise under somebody's domain.
func isExtended(name corev1.ResourceName) bool {
	s := string(name)
	return strings.Contains(s, "/") && !strings.Contains(s, "kubernetes.io/") &&
		!strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+s)) == 0
}

func canOvercommit(name corev1.ResourceName) bool {
	native := !strings.Contains(string(name), "/") || strings.Contains(string(name), "kubernetes.io/")
	return native && !isHugePages(name)
}
