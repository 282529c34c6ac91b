// SPDX-License-Identifier: Apache-2.0

package core

import (
	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"skep.dev/skep/controlplane/kinds/fill"
)

// DefaultPodTemplate fills the absent fields of a template, as every workload kind carries one.
func DefaultPodTemplate(t *corev1.PodTemplateSpec) { defaultPodSpec(&t.Spec) }

// defaultPodSpec fills what a pod and a template have in common. What only a pod gets is in defaultPod: a
// template stays as its author wrote it there, so that the pods made from it decide.
func defaultPodSpec(spec *corev1.PodSpec) {
	fill.Zero(&spec.DNSPolicy, corev1.DNSClusterFirst)
	fill.Zero(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	fill.Zero(&spec.SchedulerName, corev1.DefaultSchedulerName)
	fill.Nil(&spec.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	syncServiceAccountName(spec)
	defaultVolumes(spec.Volumes)
	roundResources(spec.Overhead)
	for i := range spec.InitContainers {
		defaultContainer(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		defaultContainer(&spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		// The two types have the same fields in the same order; the conversion is checked by the compiler.
		defaultContainer((*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
}

// defaultPod fills a pod. Requests follow limits here and not in templates.
func defaultPod(pod *corev1.Pod) {
	defaultPodSpec(&pod.Spec)
	fill.Nil(&pod.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			requestWhatIsLimited(&containers[i].Resources)
		}
	}
	if pod.Spec.Resources != nil {
		defaultPodLevelRequests(pod)
	}
	if pod.Spec.HostNetwork {
		defaultHostPorts(pod.Spec.InitContainers)
		defaultHostPorts(pod.Spec.Containers)
	}
}

// syncServiceAccountName keeps the old name of the field equal to the new one, as clients of both exist.
func syncServiceAccountName(spec *corev1.PodSpec) {
	if spec.ServiceAccountName == "" {
		spec.ServiceAccountName = spec.DeprecatedServiceAccount
	}
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
}

func defaultHostPorts(containers []corev1.Container) {
	for i := range containers {
		for j := range containers[i].Ports {
			port := &containers[i].Ports[j]
			fill.Zero(&port.HostPort, port.ContainerPort)
		}
	}
}

func requestWhatIsLimited(r *corev1.ResourceRequirements) {
	if len(r.Limits) > 0 && r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	for name, limit := range r.Limits {
		if _, ok := r.Requests[name]; !ok {
			r.Requests[name] = limit.DeepCopy()
		}
	}
}

// defaultPodLevelRequests gives a pod-level limit a pod-level request: what the containers ask for together,
// or the limit itself when none of them asks.
func defaultPodLevelRequests(pod *corev1.Pod) {
	if len(pod.Spec.Resources.Limits) == 0 {
		return
	}
	asked := resource.AggregateContainerRequests(pod, resource.PodResourcesOptions{})
	for name, limit := range pod.Spec.Resources.Limits {
		if _, ok := pod.Spec.Resources.Requests[name]; ok {
			continue
		}
		if pod.Spec.Resources.Requests == nil {
			pod.Spec.Resources.Requests = corev1.ResourceList{}
		}
		if sum, ok := asked[name]; ok && !sum.IsZero() {
			limit = sum
		}
		pod.Spec.Resources.Requests[name] = limit.DeepCopy()
	}
}

func defaultContainer(c *corev1.Container) {
	fill.Zero(&c.ImagePullPolicy, pullPolicyFor(c.Image))
	fill.Zero(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	fill.Zero(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		fill.Zero(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		defaultEnv(c.Env[i].ValueFrom)
	}
	roundResources(c.Resources.Limits)
	roundResources(c.Resources.Requests)
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		defaultProbe(probe)
	}
	if c.Lifecycle != nil {
		for _, handler := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if handler != nil {
				defaultHTTPGet(handler.HTTPGet)
			}
		}
	}
	if c.SecurityContext != nil {
		fill.Nil(&c.SecurityContext.ProcMount, corev1.DefaultProcMount)
	}
}

// pullPolicyFor is Always for an image that may change under its name. What cannot be parsed keeps what the
// node has: validation or the pull will say what is wrong with it.
func pullPolicyFor(image string) corev1.PullPolicy {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return corev1.PullIfNotPresent
	}
	if tagged, ok := reference.TagNameOnly(named).(reference.Tagged); ok && tagged.Tag() == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

func defaultEnv(source *corev1.EnvVarSource) {
	if source == nil {
		return
	}
	defaultFieldRef(source.FieldRef)
	if source.FileKeyRef != nil {
		fill.Nil(&source.FileKeyRef.Optional, false)
	}
}

func defaultFieldRef(ref *corev1.ObjectFieldSelector) {
	if ref != nil {
		fill.Zero(&ref.APIVersion, "v1")
	}
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	fill.Zero(&p.TimeoutSeconds, 1)
	fill.Zero(&p.PeriodSeconds, 10)
	fill.Zero(&p.SuccessThreshold, 1)
	fill.Zero(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		fill.Nil(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(get *corev1.HTTPGetAction) {
	if get != nil {
		fill.Zero(&get.Path, "/")
		fill.Zero(&get.Scheme, corev1.URISchemeHTTP)
	}
}

// roundResources rounds up to the milli scale, the finest that the API stores.
func roundResources(list corev1.ResourceList) {
	const milli = -3
	for name, quantity := range list {
		quantity.RoundUp(milli)
		list[name] = quantity
	}
}
