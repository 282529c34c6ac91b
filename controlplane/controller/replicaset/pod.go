// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var kind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

// longestBase leaves room for five random characters in a name of 63, which is what a host name may have.
const longestBase = 58

// newPod makes a pod from the template. The name is chosen here and not by the server, so that a creation is
// recognised when the watch shows it; suffix makes it unique.
func newPod(rs *appsv1.ReplicaSet, suffix string) *corev1.Pod {
	base := rs.Name + "-"
	if len(base) > longestBase {
		base = base[:longestBase]
	}
	t := rs.Spec.Template
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       rs.Namespace,
			GenerateName:    rs.Name + "-",
			Name:            base + suffix,
			Labels:          maps.Clone(t.Labels),
			Annotations:     maps.Clone(t.Annotations),
			Finalizers:      slices.Clone(t.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, kind)},
		},
		Spec: *t.Spec.DeepCopy(),
	}
}
