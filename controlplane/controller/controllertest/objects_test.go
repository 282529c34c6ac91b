// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

func kind(k string) schema.GroupKind { return schema.GroupKind{Group: "apps", Kind: k} }

func unstructuredOf(raw []byte) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	return u, json.Unmarshal(raw, &u.Object)
}

// configMap makes a ConfigMap; owners are ConfigMaps, with a * for those whose deletion it blocks.
func (c *cluster) configMap(t *testing.T, ns, name string, finalizers []string, owners ...*corev1.ConfigMap) *corev1.ConfigMap {
	t.Helper()
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Finalizers: finalizers}}
	yes := true
	for _, o := range owners {
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: o.Name, UID: o.UID, BlockOwnerDeletion: &yes})
	}
	m, err := c.client.CoreV1().ConfigMaps(ns).Create(t.Context(), m, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// left lists the ConfigMaps of a namespace with their number of owners, those being deleted in brackets.
func (c *cluster) left(t *testing.T, ns string) string {
	t.Helper()
	maps, err := c.client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range maps.Items {
		text := fmt.Sprintf("%s:%d", m.Name, len(m.OwnerReferences))
		if m.DeletionTimestamp != nil {
			text = "(" + text + ")"
		}
		if m.Name != "kube-root-ca.crt" {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (c *cluster) remove(t *testing.T, m *corev1.ConfigMap, how metav1.DeletionPropagation) {
	t.Helper()
	err := c.client.CoreV1().ConfigMaps(m.Namespace).Delete(t.Context(), m.Name, metav1.DeleteOptions{PropagationPolicy: &how})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCollector(t *testing.T) {
	c, ns := start(t)
	top := c.configMap(t, ns, "top", nil)
	other := c.configMap(t, ns, "other", nil)
	mid := c.configMap(t, ns, "mid", nil, top)
	c.configMap(t, ns, "leaf", nil, mid)
	c.configMap(t, ns, "both", nil, top, other)
	c.remove(t, top, metav1.DeletePropagationBackground)
	eventually(t, "background", func() string { return differs(c.left(t, ns), "both:1 other:0") })

	c.remove(t, other, metav1.DeletePropagationOrphan)
	eventually(t, "orphan", func() string { return differs(c.left(t, ns), "both:0") })

	owner := c.configMap(t, ns, "owner", nil)
	slow := c.configMap(t, ns, "slow", []string{"example.com/wait"}, owner)
	c.configMap(t, ns, "fast", nil, owner)
	c.remove(t, owner, metav1.DeletePropagationForeground)
	eventually(t, "foreground waits for what blocks", func() string { return differs(c.left(t, ns), "(owner:0) (slow:1) both:0") })
	_, err := c.client.CoreV1().ConfigMaps(ns).Patch(t.Context(), slow.Name, types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/finalizers"}]`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "foreground ends", func() string { return differs(c.left(t, ns), "both:0") })

	ghost := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ghost", UID: "00000000-0000-0000-0000-000000000000"}}
	c.configMap(t, ns, "haunted", nil, ghost)
	eventually(t, "an owner that never was", func() string { return differs(c.left(t, ns), "both:0") })
}

// widgets serves a custom resource, and returns a client of it.
func (c *cluster) widgets(t *testing.T) dynamic.NamespaceableResourceInterface {
	t.Helper()
	client, err := apiextensions.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	keep := true
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
		Names:    apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &keep}}}},
	}}
	if _, err := client.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	resource := dyn.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"})
	eventually(t, "the new kind", func() string {
		if _, err := resource.List(t.Context(), metav1.ListOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	return resource
}

func widget(name string, finalizers ...any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": name}}}
	if len(finalizers) > 0 {
		_ = unstructured.SetNestedSlice(u.Object, finalizers, "metadata", "finalizers")
	}
	return u
}

func TestCollectorKnowsNewKinds(t *testing.T) {
	c, ns := start(t)
	widgets := c.widgets(t).Namespace(ns)
	var owner *unstructured.Unstructured
	eventually(t, "make a widget", func() string {
		var err error
		if owner, err = widgets.Create(t.Context(), widget("owner"), metav1.CreateOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "owned", OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Widget", Name: "owner", UID: owner.GetUID()}}}}
	if _, err := c.client.CoreV1().ConfigMaps(ns).Create(t.Context(), m, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := widgets.Delete(t.Context(), "owner", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the widget's config map", func() string { return differs(c.left(t, ns), "") })
}

func TestNamespaceDeletion(t *testing.T) {
	c, ns := start(t)
	c.playNodes(t, ns+"-a")
	ctx := t.Context()
	widgets := c.widgets(t).Namespace(ns)
	eventually(t, "make a widget", func() string {
		if _, err := widgets.Create(ctx, widget("stuck", "example.com/wait"), metav1.CreateOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	c.configMap(t, ns, "some", nil)
	if _, err := c.client.AppsV1().Deployments(ns).Create(ctx, deployment(ns, "v1", 2), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.rolledOut(t, ns)
	if err := c.client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it says what it waits for", func() string {
		n, err := c.client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, condition := range n.Status.Conditions {
			if condition.Type == corev1.NamespaceFinalizersRemaining && condition.Status == corev1.ConditionTrue &&
				condition.Message == "Some content in the namespace has finalizers remaining: example.com/wait in 1 resource instances" {
				return ""
			}
		}
		return fmt.Sprintf("%s %+v", n.Status.Phase, n.Status.Conditions)
	})
	if _, err := widgets.Patch(ctx, "stuck", types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/finalizers"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes", func() string {
		_, err := c.client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprint("still there: ", err)
	})
	if got := c.left(t, ns); got != "" {
		t.Errorf("left behind: %s", got)
	}
}
