// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skep.dev/skep/controlplane/kinds/check"
)

// A scope is what the containers of one pod may refer to.
type scope struct {
	spec    *corev1.PodSpec
	volumes map[string]corev1.VolumeSource
	use     specUse
	// graceSeconds bounds a preStop sleep.
	graceSeconds int64
}

func validateContainers(spec *corev1.PodSpec, volumes map[string]corev1.VolumeSource, path *field.Path, use specUse) field.ErrorList {
	s := scope{spec: spec, volumes: volumes, use: use}
	if spec.TerminationGracePeriodSeconds != nil {
		s.graceSeconds = *spec.TerminationGracePeriodSeconds
	}
	var errs field.ErrorList
	if len(spec.Containers) == 0 {
		errs = append(errs, field.Required(path.Child("containers"), ""))
	}
	names := sets.New[string]()
	unique := func(name string, at *field.Path) {
		if name != "" && names.Has(name) {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		names.Insert(name)
	}
	for i := range spec.Containers {
		at := path.Child("containers").Index(i)
		errs = append(errs, s.container(&spec.Containers[i], at)...)
		errs = append(errs, s.mainContainer(&spec.Containers[i], at)...)
		unique(spec.Containers[i].Name, at)
	}
	for i := range spec.InitContainers {
		at := path.Child("initContainers").Index(i)
		errs = append(errs, s.container(&spec.InitContainers[i], at)...)
		errs = append(errs, s.initContainer(&spec.InitContainers[i], at)...)
		unique(spec.InitContainers[i].Name, at)
	}
	for i := range spec.EphemeralContainers {
		at := path.Child("ephemeralContainers").Index(i)
		errs = append(errs, s.ephemeralContainer(&spec.EphemeralContainers[i], at)...)
		unique(spec.EphemeralContainers[i].Name, at)
	}
	return append(errs, validateHostPorts(spec, path, use)...)
}

// container checks what every kind of container has.
func (s scope) container(c *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		errs = append(errs, check.Invalid(path.Child("name"), c.Name, validation.IsDNS1123Label(c.Name))...)
	}
	// A template's image may be filled in by a webhook when the pod is made, so it may be empty there in theory; clients
	// nevertheless expect the refusal at the workload.
	if c.Image == "" {
		errs = append(errs, field.Required(path.Child("image"), ""))
	} else if strings.TrimSpace(c.Image) != c.Image {
		errs = append(errs, field.Invalid(path.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	errs = append(errs, check.OneOf(path.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, check.OneOf(path.Child("imagePullPolicy"), c.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, validateContainerPorts(c.Ports, path.Child("ports"))...)
	errs = append(errs, validateEnv(c.Env, path.Child("env"))...)
	errs = append(errs, validateEnvFrom(c.EnvFrom, path.Child("envFrom"))...)
	errs = append(errs, s.volumeMounts(c, path.Child("volumeMounts"))...)
	errs = append(errs, validateResources(&c.Resources, path.Child("resources"))...)
	errs = append(errs, validateResizePolicy(c.ResizePolicy, path.Child("resizePolicy"))...)
	return append(errs, validateSecurityContext(c.SecurityContext, s.spec, path.Child("securityContext"))...)
}

func (s scope) mainContainer(c *corev1.Container, path *field.Path) field.ErrorList {
	errs := s.lifecycle(c.Lifecycle, path.Child("lifecycle"))
	errs = append(errs, s.probes(c, path)...)
	if c.RestartPolicy != nil {
		errs = append(errs, field.Forbidden(path.Child("restartPolicy"), "may not be set for non-init containers"))
	}
	return errs
}

// initContainer checks the difference between a container that runs to its end before the others start and a
// sidecar, which runs beside them and so may have probes and hooks.
func (s scope) initContainer(c *corev1.Container, path *field.Path) field.ErrorList {
	if c.RestartPolicy != nil {
		errs := check.OneOf(path.Child("restartPolicy"), *c.RestartPolicy, corev1.ContainerRestartPolicyAlways)
		if len(errs) > 0 {
			return errs
		}
		errs = append(errs, s.lifecycle(c.Lifecycle, path.Child("lifecycle"))...)
		return append(errs, s.probes(c, path)...)
	}
	var errs field.ErrorList
	forbid := func(name string, set bool) {
		if set {
			errs = append(errs, field.Forbidden(path.Child(name), "may not be set for init containers without restartPolicy=Always"))
		}
	}
	forbid("lifecycle", c.Lifecycle != nil)
	forbid("livenessProbe", c.LivenessProbe != nil)
	forbid("readinessProbe", c.ReadinessProbe != nil)
	forbid("startupProbe", c.StartupProbe != nil)
	return errs
}

func (s scope) ephemeralContainer(c *corev1.EphemeralContainer, path *field.Path) field.ErrorList {
	common := (*corev1.Container)(&c.EphemeralContainerCommon)
	errs := s.container(common, path)
	forbid := func(name string, set bool) {
		if set {
			errs = append(errs, field.Forbidden(path.Child(name), "cannot be set for an Ephemeral Container"))
		}
	}
	forbid("lifecycle", c.Lifecycle != nil)
	forbid("livenessProbe", c.LivenessProbe != nil)
	forbid("readinessProbe", c.ReadinessProbe != nil)
	forbid("startupProbe", c.StartupProbe != nil)
	forbid("ports", len(c.Ports) > 0)
	forbid("resources", len(c.Resources.Limits)+len(c.Resources.Requests)+len(c.Resources.Claims) > 0)
	if c.TargetContainerName != "" && !hasContainer(s.spec, c.TargetContainerName) {
		errs = append(errs, field.NotFound(path.Child("targetContainerName"), c.TargetContainerName))
	}
	return errs
}

func hasContainer(spec *corev1.PodSpec, name string) bool {
	for _, containers := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
		for i := range containers {
			if containers[i].Name == name {
				return true
			}
		}
	}
	return false
}

func validateContainerPorts(ports []corev1.ContainerPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, port := range ports {
		at := path.Index(i)
		if port.Name != "" {
			if messages := validation.IsValidPortName(port.Name); len(messages) > 0 {
				errs = append(errs, check.Invalid(at.Child("name"), port.Name, messages)...)
			} else if names.Has(port.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), port.Name))
			}
			names.Insert(port.Name)
		}
		if port.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, check.Port(at.Child("containerPort"), port.ContainerPort)...)
		}
		if port.HostPort != 0 {
			errs = append(errs, check.Port(at.Child("hostPort"), port.HostPort)...)
		}
		if port.HostIP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("hostIP"), port.HostIP, false, nil)...)
		}
		errs = append(errs, check.OneOf(at.Child("protocol"), port.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	}
	return errs
}

// validateHostPorts checks that no two containers that run together ask for the same port of the node.
func validateHostPorts(spec *corev1.PodSpec, path *field.Path, use specUse) field.ErrorList {
	var errs field.ErrorList
	taken := sets.New[string]()
	for _, group := range []struct {
		name       string
		containers []corev1.Container
	}{{"containers", spec.Containers}, {"initContainers", spec.InitContainers}} {
		for i := range group.containers {
			if group.name == "initContainers" && group.containers[i].RestartPolicy == nil {
				continue
			}
			for j, port := range group.containers[i].Ports {
				at := path.Child(group.name).Index(i).Child("ports").Index(j).Child("hostPort")
				if spec.HostNetwork && port.HostPort != port.ContainerPort && (use == isPod || port.HostPort != 0) {
					errs = append(errs, field.Invalid(at, port.HostPort, "must match `containerPort` when `hostNetwork` is true"))
				}
				if port.HostPort == 0 {
					continue
				}
				key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
				if taken.Has(key) {
					errs = append(errs, field.Duplicate(at, key))
				}
				taken.Insert(key)
			}
		}
	}
	return errs
}

func validateResizePolicy(policies []corev1.ContainerResizePolicy, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i, p := range policies {
		at := path.Index(i)
		if seen.Has(p.ResourceName) {
			errs = append(errs, field.Duplicate(at, p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		errs = append(errs, check.OneOf(at, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, check.OneOf(at, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)...)
	}
	return errs
}
