// SPDX-License-Identifier: Apache-2.0

// Package admission holds skep's own admission rules: each is a pure change or check of an object, and register.go hangs
// them into the server's chain beside the library's webhooks and policies.
package admission

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
)

const (
	tokenVolumePrefix = "kube-api-access-"
	tokenMountPath    = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenFile         = "token"
	rootCAConfigMap   = "kube-root-ca.crt"
	rootCAFile        = "ca.crt"
	// tokenSeconds is an hour and a bit; agents renew the token long before.
	tokenSeconds = 3607
	tokenMode    = 0o644

	defaultAccount = "default"
	// outageSeconds is how long a pod stays on a node that is not ready or not reachable.
	outageSeconds = 300
)

// accountName is the ServiceAccount that a new pod asks for.
func accountName(pod *corev1.Pod) string {
	if pod.Spec.ServiceAccountName != "" {
		return pod.Spec.ServiceAccountName
	}
	if pod.Spec.DeprecatedServiceAccount != "" {
		return pod.Spec.DeprecatedServiceAccount
	}
	return defaultAccount
}

// useAccount gives a new pod its account, the account's pull secrets, and the volume with its token. suffix makes the
// volume's name differ from pod to pod.
func useAccount(pod *corev1.Pod, account *corev1.ServiceAccount, suffix string) {
	pod.Spec.ServiceAccountName = account.Name
	pod.Spec.DeprecatedServiceAccount = account.Name
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = append([]corev1.LocalObjectReference(nil), account.ImagePullSecrets...)
	}
	if automount(pod, account) {
		mountToken(pod, tokenVolumePrefix+suffix)
	}
}

// automount: the pod's word counts before the account's; neither saying anything means yes.
func automount(pod *corev1.Pod, account *corev1.ServiceAccount) bool {
	if p := pod.Spec.AutomountServiceAccountToken; p != nil {
		return *p
	}
	return account.AutomountServiceAccountToken == nil || *account.AutomountServiceAccountToken
}

// mountToken adds the volume unless every container mounts something else at its place.
func mountToken(pod *corev1.Pod, name string) {
	have := false
	for _, v := range pod.Spec.Volumes {
		// A copied pod brings the volume along.
		if len(v.Name) > len(tokenVolumePrefix) && v.Name[:len(tokenVolumePrefix)] == tokenVolumePrefix {
			name, have = v.Name, true
			break
		}
	}
	needed := false
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if !mounts(&list[i], tokenMountPath) {
				list[i].VolumeMounts = append(list[i].VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
				needed = true
			}
		}
	}
	if needed && !have {
		pod.Spec.Volumes = append(pod.Spec.Volumes, tokenVolume(name))
	}
}

func mounts(c *corev1.Container, path string) bool {
	for _, m := range c.VolumeMounts {
		if m.MountPath == path {
			return true
		}
	}
	return false
}

func tokenVolume(name string) corev1.Volume {
	mode, seconds := int32(tokenMode), int64(tokenSeconds)
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: tokenFile, ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: rootCAFile, Path: rootCAFile}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}}}
}

// tolerateOutage lets a pod that does not say otherwise stay on a failed node for a while, so that a short outage
// moves nothing.
func tolerateOutage(pod *corev1.Pod) {
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if tolerates(pod, key) {
			continue
		}
		seconds := int64(outageSeconds)
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
		})
	}
}

func tolerates(pod *corev1.Pod, key string) bool {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

// prioritize resolves the pod's priority class among the known ones.
func prioritize(pod *corev1.Pod, classes []*schedulingv1.PriorityClass) error {
	class, err := chooseClass(pod, classes)
	if err != nil {
		return err
	}
	value, policy := int32(0), corev1.PreemptLowerPriority
	if class != nil {
		pod.Spec.PriorityClassName = class.Name
		value = class.Value
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	}
	if p := pod.Spec.Priority; p != nil && *p != value {
		return fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *p, value)
	}
	if p := pod.Spec.PreemptionPolicy; p != nil && *p != policy {
		return fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *p, policy)
	}
	pod.Spec.Priority = &value
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

// chooseClass returns the named class, or the default one, of several the lowest; nil when there is none.
func chooseClass(pod *corev1.Pod, classes []*schedulingv1.PriorityClass) (*schedulingv1.PriorityClass, error) {
	var chosen *schedulingv1.PriorityClass
	for _, c := range classes {
		if pod.Spec.PriorityClassName != "" {
			if c.Name == pod.Spec.PriorityClassName {
				return c, nil
			}
			continue
		}
		if c.GlobalDefault && (chosen == nil || c.Value < chosen.Value) {
			chosen = c
		}
	}
	if pod.Spec.PriorityClassName != "" {
		return nil, fmt.Errorf("no PriorityClass with name %v was found", pod.Spec.PriorityClassName)
	}
	return chosen, nil
}

// shieldNode keeps pods off a new node until it has been seen ready.
func shieldNode(node *corev1.Node) {
	for _, t := range node.Spec.Taints {
		if t.Key == corev1.TaintNodeNotReady && t.Effect == corev1.TaintEffectNoSchedule {
			return
		}
	}
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
}
