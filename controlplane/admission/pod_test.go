// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func podWith(containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: containers}}
}

func TestTokenVolume(t *testing.T) {
	yes, no := true, false
	own := corev1.Container{Name: "own", VolumeMounts: []corev1.VolumeMount{{Name: "x", MountPath: tokenMountPath}}}
	plain := corev1.Container{Name: "plain"}
	for _, c := range []struct {
		name                string
		pod                 *corev1.Pod
		ofPod, ofAccount    *bool
		wantMounts, wantVol int
	}{
		{"by default", podWith(plain), nil, nil, 1, 1},
		{"the account says no", podWith(plain), nil, &no, 0, 0},
		{"the pod overrides the account", podWith(plain), &yes, &no, 1, 1},
		{"the pod says no", podWith(plain), &no, &yes, 0, 0},
		{"a container with its own mount is left alone", podWith(own, plain), nil, nil, 1, 1},
		{"nobody needs it", podWith(own), nil, nil, 0, 0},
	} {
		c.pod.Spec.AutomountServiceAccountToken = c.ofPod
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "a"}, AutomountServiceAccountToken: c.ofAccount}
		useAccount(c.pod, account, "abcde")
		got := 0
		for _, container := range c.pod.Spec.Containers {
			for _, m := range container.VolumeMounts {
				if m.Name == "kube-api-access-abcde" && m.ReadOnly {
					got++
				}
			}
		}
		if got != c.wantMounts || len(c.pod.Spec.Volumes) != c.wantVol {
			t.Errorf("%s: %d mounts and %d volumes, want %d and %d", c.name, got, len(c.pod.Spec.Volumes), c.wantMounts, c.wantVol)
		}
		before := len(c.pod.Spec.Volumes)
		useAccount(c.pod, account, "other")
		if len(c.pod.Spec.Volumes) != before {
			t.Errorf("%s: admitting the pod again added a volume", c.name)
		}
	}
}

func TestTolerations(t *testing.T) {
	for _, c := range []struct {
		name string
		has  []corev1.Toleration
		want int
	}{
		{"none", nil, 2},
		{"everything is tolerated", []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, 1},
		{"one of them", []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}, 2},
		{"another effect", []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}, 3},
	} {
		pod := podWith()
		pod.Spec.Tolerations = c.has
		tolerateOutage(pod)
		tolerateOutage(pod)
		if len(pod.Spec.Tolerations) != c.want {
			t.Errorf("%s: %d tolerations, want %d", c.name, len(pod.Spec.Tolerations), c.want)
		}
	}
}

func TestPriority(t *testing.T) {
	never := corev1.PreemptNever
	classes := []*schedulingv1.PriorityClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 100, PreemptionPolicy: &never},
		{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Value: 7, GlobalDefault: true},
	}
	five := int32(5)
	for _, c := range []struct {
		name, class string
		given       *int32
		classes     []*schedulingv1.PriorityClass
		want        int32
		wantErr     string
	}{
		{"named", "high", nil, classes, 100, ""},
		{"default", "", nil, classes, 7, ""},
		{"no classes", "", nil, nil, 0, ""},
		{"unknown", "none", nil, classes, 0, "no PriorityClass with name none was found"},
		{"number given", "high", &five, classes, 0, "must not be provided"},
	} {
		pod := podWith()
		pod.Spec.PriorityClassName, pod.Spec.Priority = c.class, c.given
		err := prioritize(pod, c.classes)
		switch {
		case c.wantErr != "":
			if err == nil || !strings.Contains(err.Error(), c.wantErr) {
				t.Errorf("%s: got %v, want %q", c.name, err, c.wantErr)
			}
		case err != nil || *pod.Spec.Priority != c.want:
			t.Errorf("%s: got %v, %v", c.name, pod.Spec.Priority, err)
		}
	}
}
