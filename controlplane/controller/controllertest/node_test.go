// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// lonePod makes a pod that may only run on the test's own nodes.
func lonePod(ns, name, cpu string, tolerations ...corev1.Toleration) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.PodSpec{
			Tolerations: tolerations,
			Containers: []corev1.Container{{Name: "c", Image: "v1", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)},
			}}},
		},
	}
}

func TestUnschedulablePodSaysWhyAndIsPlacedLater(t *testing.T) {
	c, ns := start(t)
	ctx := t.Context()
	c.playNodes(t, ns+"-a")
	pods := c.client.CoreV1().Pods(ns)
	pod := lonePod(ns, "large", "12")
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: ns + "-a"}
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the condition", func() string {
		p, err := pods.Get(ctx, "large", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, condition := range p.Status.Conditions {
			if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse && condition.Reason == "Unschedulable" &&
				strings.HasPrefix(condition.Message, "0/") && strings.Contains(condition.Message, " nodes are available: 1 Insufficient cpu") {
				return ""
			}
		}
		return fmt.Sprintf("%+v", p.Status.Conditions)
	})
	c.event(t, ns, "FailedScheduling", "1 Insufficient cpu")
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, ns+"-a", types.MergePatchType, []byte(`{"status":{"allocatable":{"cpu":"16"}}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "placed when the node grows", func() string {
		p, err := pods.Get(ctx, "large", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return differs(p.Spec.NodeName, ns+"-a")
	})
	c.event(t, ns, "Scheduled", fmt.Sprintf("Successfully assigned %s/large to %s-a", ns, ns))
}

func (c *cluster) event(t *testing.T, ns, reason, text string) {
	t.Helper()
	eventually(t, "event "+reason, func() string {
		events, err := c.client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		var seen []string
		for _, e := range events.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return ""
			}
			seen = append(seen, e.Reason+": "+e.Message)
		}
		return strings.Join(seen, "\n")
	})
}

func TestNodesGetTheirOwnPodCIDRs(t *testing.T) {
	c, ns := start(t)
	ctx := t.Context()
	names := []string{ns + "-a", ns + "-b", ns + "-c"}
	c.playNodes(t, names...)
	seen := map[string]string{}
	for _, name := range names {
		eventually(t, "pod CIDRs of "+name, func() string {
			n, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			if len(n.Spec.PodCIDRs) != 2 || n.Spec.PodCIDR != n.Spec.PodCIDRs[0] {
				return fmt.Sprint("has ", n.Spec.PodCIDRs)
			}
			for _, cidr := range n.Spec.PodCIDRs {
				if _, err := netip.ParsePrefix(cidr); err != nil || seen[cidr] != "" && seen[cidr] != name {
					t.Fatalf("%s has %s, as has %q (%v)", name, cidr, seen[cidr], err)
				}
				seen[cidr] = name
			}
			return ""
		})
	}
}

func TestNodeThatIsNotReadyLosesItsPods(t *testing.T) {
	c, ns := start(t)
	ctx := t.Context()
	node := ns + "-a"
	c.playNodes(t, node)
	pods := c.client.CoreV1().Pods(ns)
	patient := corev1.Toleration{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	hour, none := int64(3600), int64(0)
	stays, goes := lonePod(ns, "stays", "1m", patient), lonePod(ns, "goes", "1m", patient)
	stays.Spec.Tolerations[0].TolerationSeconds = &hour
	goes.Spec.Tolerations[0].TolerationSeconds = &none
	for _, p := range []*corev1.Pod{stays, goes} {
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
		if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ready := func(want string) {
		t.Helper()
		eventually(t, "pod stays is "+want, func() string {
			p, err := pods.Get(ctx, "stays", metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			for _, condition := range p.Status.Conditions {
				if condition.Type == corev1.PodReady {
					return differs(string(condition.Status), want)
				}
			}
			return "no condition"
		})
	}
	ready("True")
	patch := `{"status":{"conditions":[{"type":"Ready","status":"False","reason":"KubeletNotReady","message":"broken"}]}}`
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "taints", func() string {
		n, err := c.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		var got []string
		for _, taint := range n.Spec.Taints {
			got = append(got, taint.Key+":"+string(taint.Effect))
		}
		return differs(strings.Join(got, " "), "node.kubernetes.io/not-ready:NoSchedule node.kubernetes.io/not-ready:NoExecute")
	})
	ready("False")
	eventually(t, "pod goes", func() string {
		if _, err := pods.Get(ctx, "goes", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Sprint("still there: ", err)
		}
		return ""
	})
	c.event(t, ns, "TaintManagerEviction", "Marking for deletion Pod "+ns+"/goes")
}

func TestNodeWithTheBinaryGetsDNS(t *testing.T) {
	c, ns := start(t)
	ctx := t.Context()
	node := ns + "-a"
	c.playNodes(t, node)
	patch := `{"metadata":{"annotations":{"skep.dev/executable":"/usr/bin/skep"}}}`
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	pods := c.client.CoreV1().Pods(metav1.NamespaceSystem)
	var first types.UID
	eventually(t, "its DNS pod", func() string {
		p, err := pods.Get(ctx, "dns-"+node, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		first = p.UID
		return differs(p.Spec.NodeName+" "+p.Spec.ServiceAccountName, node+" coredns")
	})
	if err := pods.Delete(ctx, "dns-"+node, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another one", func() string {
		p, err := pods.Get(ctx, "dns-"+node, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		if p.UID == first {
			return "still the first"
		}
		return ""
	})
	if err := c.client.CoreV1().Nodes().Delete(ctx, node, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "gone with its node", func() string {
		if _, err := pods.Get(ctx, "dns-"+node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Sprint("still there: ", err)
		}
		return ""
	})
}
