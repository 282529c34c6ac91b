// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic/registry"
)

var pods = schema.GroupResource{Resource: "pods"}

// servePods adds what only pods have: binding to a node, eviction, and the streams to their containers.
func servePods(r *registrar, res *resource) error {
	nodes, err := r.nodeClient()
	if err != nil {
		return err
	}
	binding := &podBinding{store: res.Store}
	r.add(res, "binding", binding)
	r.addVirtual(corev1.SchemeGroupVersion, "bindings", &legacyBinding{podBinding: binding})
	r.add(res, "eviction", &podEviction{pods: res.Store, registrar: r})
	r.add(res, "log", &podLog{pods: res.Store, nodes: nodes})
	r.add(res, "exec", &podStream{pods: res.Store, nodes: nodes, verb: execVerb{}})
	r.add(res, "attach", &podStream{pods: res.Store, nodes: nodes, verb: attachVerb{}})
	r.add(res, "portforward", &podStream{pods: res.Store, nodes: nodes, verb: portForwardVerb{}})
	return nil
}

func getPod(ctx context.Context, store *registry.Store, name string) (*corev1.Pod, error) {
	obj, err := store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

// chooseContainer returns the named container, or the only one.
func chooseContainer(pod *corev1.Pod, name string) (string, error) {
	var all []string
	for _, c := range pod.Spec.Containers {
		all = append(all, c.Name)
	}
	if name == "" {
		if len(all) == 1 {
			return all[0], nil
		}
		if d := pod.Annotations["kubectl.kubernetes.io/default-container"]; d != "" && containerExists(pod, d) {
			return d, nil
		}
		return "", apierrors.NewBadRequest(ambiguous(pod, all))
	}
	if !containerExists(pod, name) {
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	return name, nil
}

func ambiguous(pod *corev1.Pod, all []string) string {
	message := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(all, " "))
	var initial []string
	for _, c := range pod.Spec.InitContainers {
		initial = append(initial, c.Name)
	}
	if len(initial) > 0 {
		message += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(initial, " "))
	}
	return message
}

func containerExists(pod *corev1.Pod, name string) bool {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for _, c := range list {
			if c.Name == name {
				return true
			}
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		if c.Name == name {
			return true
		}
	}
	return false
}
