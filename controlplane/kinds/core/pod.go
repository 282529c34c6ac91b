// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/kubectl/pkg/util/qos"

	"skep.dev/skep/controlplane/kinds"
)

// Pod is the kind Pod.
func Pod() kinds.Kind {
	return kinds.Define(&corev1.PodList{}, kinds.Def[*corev1.Pod]{
		GroupVersion:           corev1.SchemeGroupVersion,
		Kind:                   "Pod",
		Resource:               "pods",
		ShortNames:             []string{"po"},
		Categories:             []string{"all"},
		HasStatus:              true,
		Default:                defaultPod,
		PrepareForCreate:       preparePodForCreate,
		PrepareForUpdate:       preparePodForUpdate,
		PrepareForStatusUpdate: preparePodForStatusUpdate,
		Validate:               validatePod,
		ValidateUpdate:         validatePodUpdate,
		ValidateStatusUpdate:   validatePodStatusUpdate,
		Columns:                podColumns,
		Row:                    podRow,
		Fields:                 podFields,
		FieldNames: []string{"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
			"spec.hostNetwork", "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"},
		IndexedField:   "spec.nodeName",
		GracefulDelete: deletePodGracefully,
	})
}

func preparePodForCreate(_ context.Context, pod *corev1.Pod) {
	// Admission may have filled in the account after defaulting.
	syncServiceAccountName(&pod.Spec)
	pod.Generation = 1
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qos.ComputePodQOS(pod)}
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type:    corev1.PodScheduled,
			Status:  corev1.ConditionFalse,
			Reason:  corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
}

func preparePodForUpdate(_ context.Context, pod, _ *corev1.Pod) { syncServiceAccountName(&pod.Spec) }

// preparePodForStatusUpdate keeps what the class of a pod follows from: its spec, which a status writer cannot change.
func preparePodForStatusUpdate(_ context.Context, pod, old *corev1.Pod) {
	if pod.Status.QOSClass == "" {
		pod.Status.QOSClass = old.Status.QOSClass
	}
}

// deletePodGracefully settles how long the node may take to stop the pod. A pod that no node has, or that has already
// ended, has nothing to stop, and goes at once.
func deletePodGracefully(_ context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) bool {
	if options == nil {
		return false
	}
	var seconds int64
	switch {
	case options.GracePeriodSeconds != nil:
		seconds = *options.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if seconds < 0 {
		seconds = 1
	}
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		seconds = 0
	}
	options.GracePeriodSeconds = &seconds
	return true
}

func podFields(pod *corev1.Pod) fields.Set {
	ips := make([]string, len(pod.Status.PodIPs))
	for i, ip := range pod.Status.PodIPs {
		ips[i] = ip.IP
	}
	ip := pod.Status.PodIP
	if ip == "" && len(ips) > 0 {
		ip = ips[0]
	}
	return fields.Set{
		"spec.nodeName":            pod.Spec.NodeName,
		"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
		"spec.schedulerName":       pod.Spec.SchedulerName,
		"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
		"status.phase":             string(pod.Status.Phase),
		"status.podIP":             ip,
		"status.podIPs":            strings.Join(ips, ","),
		"status.nominatedNodeName": pod.Status.NominatedNodeName,
	}
}
