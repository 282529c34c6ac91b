// SPDX-License-Identifier: Apache-2.0

package taintevict

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestDecide(t *testing.T) {
	seconds := func(n int64) *int64 { return &n }
	down := corev1.Taint{Key: "down", Effect: corev1.TaintEffectNoExecute}
	broken := corev1.Taint{Key: "broken", Effect: corev1.TaintEffectNoExecute}
	busy := corev1.Taint{Key: "busy", Effect: corev1.TaintEffectNoSchedule}
	exists := func(key string, s *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, TolerationSeconds: s}
	}
	for _, c := range []struct {
		name        string
		taints      []corev1.Taint
		tolerations []corev1.Toleration
		want        string
	}{
		{"no taint", nil, nil, "stays"},
		{"a taint that only keeps new pods away", []corev1.Taint{busy}, nil, "stays"},
		{"not tolerated", []corev1.Taint{down}, nil, "goes after 0s"},
		{"tolerated for ever", []corev1.Taint{down}, []corev1.Toleration{exists("down", nil)}, "stays"},
		{"tolerated by everything", []corev1.Taint{down, broken}, []corev1.Toleration{exists("", nil)}, "stays"},
		{"tolerated for a time", []corev1.Taint{down}, []corev1.Toleration{exists("down", seconds(300))}, "goes after 5m0s"},
		{"a negative time is none", []corev1.Taint{down}, []corev1.Toleration{exists("down", seconds(-5))}, "goes after 0s"},
		{"the shortest toleration counts", []corev1.Taint{down}, []corev1.Toleration{exists("down", nil), exists("down", seconds(60)), exists("down", seconds(9))}, "goes after 9s"},
		{"the taint tolerated least counts", []corev1.Taint{down, broken}, []corev1.Toleration{exists("down", seconds(300)), exists("broken", seconds(5))}, "goes after 5s"},
		{"one of two is not tolerated", []corev1.Taint{down, broken}, []corev1.Toleration{exists("down", nil)}, "goes after 0s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := time.Unix(1000, 0)
			pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: c.tolerations}}
			v := decide(pod, c.taints, func(corev1.Taint) time.Time { return at })
			got := "stays"
			if v.evict {
				got = fmt.Sprintf("goes after %s", v.at.Sub(at))
			}
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}
