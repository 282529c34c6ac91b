// SPDX-License-Identifier: Apache-2.0

package core

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

func TestConfigMapsAreChecked(t *testing.T) {
	type c struct {
		Name   string
		Change func(*corev1.ConfigMap)
		Want   []string
	}
	valid := func() *corev1.ConfigMap {
		return &corev1.ConfigMap{Data: map[string]string{"a.conf": "x"}, Immutable: ptr.To(true)}
	}
	kindtest.Create(t, ConfigMap(), valid, []c{
		{"a valid one", func(*corev1.ConfigMap) {}, nil},
		{"a key with a slash", func(m *corev1.ConfigMap) { m.Data["a/b"] = "" }, []string{`data[a/b]: Invalid value: "a/b": a valid config key must consist of`}},
		{"a key twice", func(m *corev1.ConfigMap) { m.BinaryData = map[string][]byte{"a.conf": nil} }, []string{`data[a.conf]: Invalid value: "a.conf": duplicate of key present in binaryData`}},
		{"more than a megabyte", func(m *corev1.ConfigMap) { m.Data["big"] = strings.Repeat("x", 1<<20) }, []string{`[]: Too long: may not be more than 1048576 bytes`}},
	})
	kindtest.Update(t, ConfigMap(), valid, []c{
		{"nothing", func(*corev1.ConfigMap) {}, nil},
		{"sealed data", func(m *corev1.ConfigMap) { m.Data["b"] = "y" }, []string{"data: Forbidden: field is immutable when `immutable` is set"}},
		{"the seal", func(m *corev1.ConfigMap) { m.Immutable = nil }, []string{"immutable: Forbidden: field is immutable when `immutable` is set"}},
	})
}

func TestSecretsAreChecked(t *testing.T) {
	type c struct {
		Name   string
		Change func(*corev1.Secret)
		Want   []string
	}
	valid := func() *corev1.Secret {
		return &corev1.Secret{Data: map[string][]byte{"password": []byte("x")}, Immutable: ptr.To(true)}
	}
	kindtest.Create(t, Secret(), valid, []c{
		{"a valid one", func(*corev1.Secret) {}, nil},
		{"TLS without a key", func(s *corev1.Secret) { s.Type = corev1.SecretTypeTLS; s.Data["tls.crt"] = nil }, []string{"data[tls.key]: Required value"}},
		{"registry credentials that are no JSON", func(s *corev1.Secret) {
			s.Type = corev1.SecretTypeDockerConfigJson
			s.Data[corev1.DockerConfigJsonKey] = []byte("{")
		}, []string{`data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": unexpected end of JSON input`}},
		{"a token of nobody", func(s *corev1.Secret) { s.Type = corev1.SecretTypeServiceAccountToken }, []string{"metadata.annotations[kubernetes.io/service-account.name]: Required value"}},
	})
	kindtest.Update(t, Secret(), valid, []c{
		{"another type", func(s *corev1.Secret) { s.Type = "x" }, []string{`type: Invalid value: "x": field is immutable`}},
		{"no type", func(s *corev1.Secret) { s.Type = "" }, nil},
		{"sealed data", func(s *corev1.Secret) { s.Data["password"] = nil }, []string{"data: Forbidden: field is immutable when `immutable` is set"}},
	})
	s := &corev1.Secret{StringData: map[string]string{"a": "b"}}
	kindtest.DefaultsOnce(t, Secret(), s)
	if d := cmp.Diff(&corev1.Secret{Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"a": []byte("b")}}, s); d != "" {
		t.Errorf("stringData (-want +got):\n%s", d)
	}
}

func TestNamespacesCarryTheirFinalizer(t *testing.T) {
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web", CreationTimestamp: ago(50 * time.Hour)}}
	kindtest.DefaultsOnce(t, Namespace(), n)
	Namespace().PrepareForCreate(t.Context(), n)
	want := &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "web", CreationTimestamp: n.CreationTimestamp, Labels: map[string]string{"kubernetes.io/metadata.name": "web"}},
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"kubernetes"}},
		Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceActive},
	}
	if d := cmp.Diff(want, n); d != "" {
		t.Errorf("new namespace (-want +got):\n%s", d)
	}
	changed := n.DeepCopy()
	changed.Spec.Finalizers = nil
	Namespace().PrepareForUpdate(t.Context(), changed, n)
	if len(changed.Spec.Finalizers) != 1 {
		t.Error("an update takes the finalizer away")
	}
	if d := cmp.Diff([]any{"web", "Active", "2d2h"}, kindtest.Line(Namespace(), n, true)); d != "" {
		t.Error(d)
	}
}

func TestNodesAreChecked(t *testing.T) {
	type c struct {
		Name   string
		Change func(*corev1.Node)
		Want   []string
	}
	valid := func() *corev1.Node {
		return &corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/24", PodCIDRs: []string{"10.244.1.0/24", "fd00:1::/64"}}}
	}
	kindtest.Create(t, Node(), valid, []c{
		{"a valid one", func(*corev1.Node) {}, nil},
		{"a range that is none", func(n *corev1.Node) { n.Spec.PodCIDRs[0] = "10.244.1.0" }, []string{`spec.podCIDRs[0]: Invalid value: "10.244.1.0": must be a valid CIDR value`, "spec.podCIDRs: Invalid value: ["}},
		{"two ranges of a family", func(n *corev1.Node) { n.Spec.PodCIDRs[1] = "10.244.2.0/24" }, []string{`spec.podCIDRs: Invalid value: ["10.244.1.0/24","10.244.2.0/24"]: may specify no more than one CIDR for each IP family`}},
		{"a taint without an effect", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k"}} }, []string{"spec.taints[0].effect: Required value"}},
		{"a taint twice", func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "k", Value: "a", Effect: "NoSchedule"}, {Key: "k", Value: "b", Effect: "NoSchedule"}}
		}, []string{"spec.taints[1]: Duplicate value: {"}},
		{"less than no memory", func(n *corev1.Node) { n.Status.Capacity = corev1.ResourceList{"memory": quantity("-1")} }, []string{
			`status.capacity[memory]: Invalid value: "-1": must be greater than or equal to 0`, `status.allocatable[memory]: Invalid value: "-1": must be greater than or equal to 0`}},
	})
	kindtest.Update(t, Node(), valid, []c{
		{"nothing", func(*corev1.Node) {}, nil},
		{"another range", func(n *corev1.Node) { n.Spec.PodCIDR, n.Spec.PodCIDRs = "10.244.9.0/24", []string{"10.244.9.0/24"} }, []string{`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`}},
		{"cordoned", func(n *corev1.Node) { n.Spec.Unschedulable = true }, nil},
	})
}

func TestNodeLines(t *testing.T) {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", CreationTimestamp: ago(50 * time.Hour), Labels: map[string]string{"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": ""}},
		Spec:       corev1.NodeSpec{Unschedulable: true},
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeInternalIP, Address: "172.29.0.2"}},
			NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "v1.37.2", OSImage: "Debian", ContainerRuntimeVersion: "containerd://1.6.20"},
		},
	}
	want := []any{"n1", "Ready,SchedulingDisabled", "control-plane,worker", "2d2h", "v1.37.2", "172.29.0.2", "<none>", "Debian", "<unknown>", "containerd://1.6.20"}
	if d := cmp.Diff(want, kindtest.Line(Node(), n, true)); d != "" {
		t.Errorf("ready (-want +got):\n%s", d)
	}
	n.Status.Conditions[0].Status, n.Spec.Unschedulable = corev1.ConditionUnknown, false
	if got := nodeStatus(n); got != "NotReady" {
		t.Errorf("a node that does not report: %s", got)
	}
}

func TestEventLines(t *testing.T) {
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "p.1", Namespace: "web"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: "web", FieldPath: "spec.containers{main}"},
		Type:           "Warning", Reason: "BackOff", Message: "Back-off restarting\n",
		Source:         corev1.EventSource{Component: "kubelet", Host: "n1"},
		FirstTimestamp: ago(50 * time.Hour), LastTimestamp: ago(49 * time.Hour), Count: 3,
	}
	want := []any{"2d1h", "Warning", "BackOff", "pod/p", "spec.containers{main}", "kubelet, n1", "Back-off restarting", "2d2h", int64(3), "p.1"}
	if d := cmp.Diff(want, kindtest.Line(Event(), e, true)); d != "" {
		t.Errorf("old style (-want +got):\n%s", d)
	}
	e.FirstTimestamp, e.LastTimestamp, e.Count, e.Source = metav1.Time{}, metav1.Time{}, 0, corev1.EventSource{}
	e.EventTime = metav1.NewMicroTime(ago(50 * time.Hour).Time)
	e.ReportingController, e.ReportingInstance = "skep-scheduler", "s1"
	e.Series = &corev1.EventSeries{Count: 7, LastObservedTime: metav1.NewMicroTime(ago(49 * time.Hour).Time)}
	want = []any{"2d1h", "Warning", "BackOff", "pod/p", "spec.containers{main}", "skep-scheduler, s1", "Back-off restarting", "2d2h", int64(7), "p.1"}
	if d := cmp.Diff(want, kindtest.Line(Event(), e, true)); d != "" {
		t.Errorf("new style (-want +got):\n%s", d)
	}
}

func TestEventsBelongWhereTheirObjectIs(t *testing.T) {
	for _, tc := range []struct {
		event, object string
		ok            bool
	}{{"web", "web", true}, {"web", "shop", false}, {"default", "", true}, {"web", "", false}} {
		e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: tc.event}, InvolvedObject: corev1.ObjectReference{Namespace: tc.object}}
		errs := ValidateEvent(e)
		if (len(errs) == 0) != tc.ok {
			t.Errorf("event in %q about %q: %v", tc.event, tc.object, errs)
		}
	}
}
