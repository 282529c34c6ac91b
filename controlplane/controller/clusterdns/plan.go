// SPDX-License-Identifier: Apache-2.0

// Package clusterdns runs one DNS pod on each node that has the skep binary. They are ordinary pods behind the ordinary
// Service kube-dns, so that network policies and tools see what they expect.
package clusterdns

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skep.dev/skep/controlplane/controller/podstate"
)

const (
	namespace = "kube-system"
	account   = "coredns"
	// Executable is the annotation by which a node says where its skep binary is.
	Executable = "skep.dev/executable"
	// Image is an empty root file system that every node has.
	Image = "skep.dev/base:1"
)

var podLabels = map[string]string{"k8s-app": "kube-dns"}

// podName is the name of a node's DNS pod.
func podName(node string) string { return "dns-" + node }

// action is what to do about one node's pod.
type action uint8

const (
	nothing action = iota
	create
	replace // delete it; when it is gone it is created again
)

// decide compares a node's pod with what it should be. There is none for a node that is gone or has no binary.
func decide(node *corev1.Node, there *corev1.Pod, command []string) (action, *corev1.Pod) {
	if node == nil || node.DeletionTimestamp != nil || node.Annotations[Executable] == "" {
		if there != nil && there.DeletionTimestamp == nil {
			return replace, nil
		}
		return nothing, nil
	}
	want := wanted(node, command)
	switch {
	case there == nil:
		return create, want
	case there.DeletionTimestamp != nil:
		return nothing, nil
	case podstate.Terminal(there) || there.Spec.NodeName != node.Name || !ownedBy(there, node) || differs(there, want):
		return replace, nil
	}
	return nothing, nil
}

func ownedBy(pod *corev1.Pod, node *corev1.Node) bool {
	return slices.ContainsFunc(pod.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.UID == node.UID })
}

// differs reports whether a new binary path, command, image or annotation asks for another pod. Other fields were filled in by the API.
func differs(there, want *corev1.Pod) bool {
	mirror := corev1.MirrorPodAnnotationKey
	if len(there.Spec.Containers) != 1 || len(there.Spec.Volumes) == 0 || there.Annotations[mirror] != want.Annotations[mirror] {
		return true
	}
	has, needs := there.Spec.Containers[0], want.Spec.Containers[0]
	return has.Image != needs.Image || !slices.Equal(has.Command, needs.Command) ||
		!apiequality.Semantic.DeepEqual(there.Spec.Volumes[0], want.Spec.Volumes[0])
}

func wanted(node *corev1.Node, command []string) *corev1.Pod {
	file := corev1.HostPathFile
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace,
			Name:      podName(node.Name),
			Labels:    maps.Clone(podLabels),
			// As with a static pod: whoever drains the node leaves it alone, since it would only come back.
			Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "dns"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: new(true),
			}},
		},
		Spec: corev1.PodSpec{
			NodeName:           node.Name,
			ServiceAccountName: account,
			DNSPolicy:          corev1.DNSDefault,
			Tolerations:        []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers:         []corev1.Container{container(command)},
			Volumes: []corev1.Volume{{
				Name: "skep",
				VolumeSource: corev1.VolumeSource{
					HostPath: &corev1.HostPathVolumeSource{Path: node.Annotations[Executable], Type: &file},
				},
			}},
		},
	}
}

// command is what the pod runs.
func command(domain string, upstream []string) []string {
	words := []string{"/skep", "dns", "--domain", domain}
	if len(upstream) > 0 {
		words = append(words, "--upstream", strings.Join(upstream, ","))
	}
	return words
}

func container(command []string) corev1.Container {
	return corev1.Container{
		Name:            "dns",
		Image:           Image,
		ImagePullPolicy: corev1.PullNever,
		Command:         command,
		Ports: []corev1.ContainerPort{
			{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP},
			{Name: "dns-tcp", ContainerPort: 53, Protocol: corev1.ProtocolTCP},
		},
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("10m"),
			corev1.ResourceMemory: resource.MustParse("32Mi"),
		}},
		ReadinessProbe: get("/ready", 8181, 1, 3),
		LivenessProbe:  get("/health", 8080, 5, 5),
		VolumeMounts:   []corev1.VolumeMount{{Name: "skep", MountPath: "/skep", ReadOnly: true}},
	}
}

func get(path string, port int, seconds, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt(port)}},
		PeriodSeconds:    seconds,
		FailureThreshold: failures,
	}
}
