// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubectl/pkg/polymorphichelpers"
	deploymentutil "k8s.io/kubectl/pkg/util/deployment"
)

func deployment(ns, image string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
			},
		},
	}
}

// patch changes the Deployment by strategic merge, as kubectl does.
func (c *cluster) patch(t *testing.T, ns, patch string) {
	t.Helper()
	_, err := c.client.AppsV1().Deployments(ns).Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func setImage(image string) string {
	return fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, image)
}

// rolledOut waits by the code of kubectl rollout status.
func (c *cluster) rolledOut(t *testing.T, ns string) *appsv1.Deployment {
	t.Helper()
	var d *appsv1.Deployment
	viewer := &polymorphichelpers.DeploymentStatusViewer{}
	eventually(t, "kubectl rollout status", func() string {
		var err error
		if d, err = c.client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		raw, err := json.Marshal(d)
		if err != nil {
			return err.Error()
		}
		object, err := unstructuredOf(raw)
		if err != nil {
			return err.Error()
		}
		message, done, err := viewer.Status(object, 0)
		if err != nil {
			return err.Error()
		}
		if !done {
			return message
		}
		return ""
	})
	return d
}

func (c *cluster) images(t *testing.T, ns string) string {
	t.Helper()
	pods, err := c.client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil {
			out = append(out, p.Spec.Containers[0].Image)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func revisionOf(d *appsv1.Deployment) string { return d.Annotations[deploymentutil.RevisionAnnotation] }

func TestDeploymentLife(t *testing.T) {
	c, ns := start(t)
	c.playNodes(t, ns+"-a", ns+"-b")
	ctx := t.Context()
	deployments := c.client.AppsV1().Deployments(ns)
	if _, err := deployments.Create(ctx, deployment(ns, "v1", 3), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	d := c.rolledOut(t, ns)
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	check("revision", revisionOf(d), "1")
	eventually(t, "three pods", func() string { return differs(c.images(t, ns), "v1 v1 v1") })

	c.patch(t, ns, `{"metadata":{"annotations":{"kubernetes.io/change-cause":"second"}},"spec":{"template":{"spec":{"containers":[{"name":"c","image":"v2"}]}}}}`)
	d = c.rolledOut(t, ns)
	check("revision", revisionOf(d), "2")
	eventually(t, "new pods", func() string { return differs(c.images(t, ns), "v2 v2 v2") })

	history, err := polymorphichelpers.HistoryViewerFor(kind("Deployment"), c.client)
	if err != nil {
		t.Fatal(err)
	}
	text, err := history.ViewHistory(ns, "web", 0)
	if err != nil || !strings.Contains(text, "second") || !strings.Contains(text, "1") {
		t.Errorf("kubectl rollout history: %v\n%s", err, text)
	}

	undo(t, c.client, d, 1)
	d = c.rolledOut(t, ns)
	check("revision after undo", revisionOf(d), "3")
	eventually(t, "old pods again", func() string { return differs(c.images(t, ns), "v1 v1 v1") })

	c.patch(t, ns, `{"spec":{"paused":true}}`)
	c.patch(t, ns, setImage("v3"))
	c.patch(t, ns, `{"spec":{"replicas":5}}`)
	eventually(t, "scaled while paused", func() string { return differs(c.images(t, ns), "v1 v1 v1 v1 v1") })
	d, err = deployments.Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	check("condition", progressing(d), "Unknown DeploymentPaused")
	c.patch(t, ns, `{"spec":{"paused":false}}`)
	d = c.rolledOut(t, ns)
	check("revision after resume", revisionOf(d), "4")
	eventually(t, "resumed", func() string { return differs(c.images(t, ns), "v3 v3 v3 v3 v3") })
	check("condition", progressing(d), "True NewReplicaSetAvailable")

	c.scaleEvents(t, ns)
	c.deleteWeb(t, ns)
}

func differs(got, want string) string {
	if got == want {
		return ""
	}
	return fmt.Sprintf("got %q, want %q", got, want)
}

func progressing(d *appsv1.Deployment) string {
	for _, condition := range d.Status.Conditions {
		if condition.Type == appsv1.DeploymentProgressing {
			return fmt.Sprintf("%s %s", condition.Status, condition.Reason)
		}
	}
	return "none"
}

// undo is kubectl rollout undo.
func undo(t *testing.T, client kubernetes.Interface, d *appsv1.Deployment, revision int64) {
	t.Helper()
	rollbacker, err := polymorphichelpers.RollbackerFor(kind("Deployment"), client)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rollbacker.Rollback(d, nil, revision, 0); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) scaleEvents(t *testing.T, ns string) {
	t.Helper()
	eventually(t, "events of the rollout", func() string {
		events, err := c.client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Deployment"})
		if err != nil {
			return err.Error()
		}
		for _, e := range events.Items {
			if e.Reason == "ScalingReplicaSet" && strings.HasPrefix(e.Message, "Scaled up replica set web-") && strings.HasSuffix(e.Message, "from 0 to 3") {
				return ""
			}
		}
		return fmt.Sprintf("not among %d events", len(events.Items))
	})
}

// deleteWeb deletes the Deployment, and expects its ReplicaSets and pods to follow.
func (c *cluster) deleteWeb(t *testing.T, ns string) {
	t.Helper()
	if err := c.client.AppsV1().Deployments(ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "everything collected", func() string {
		sets, err := c.client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		pods, err := c.client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		if len(sets.Items)+len(pods.Items) > 0 {
			return fmt.Sprintf("%d replica sets and %d pods left", len(sets.Items), len(pods.Items))
		}
		return ""
	})
}

func TestBrokenRolloutKeepsServing(t *testing.T) {
	c, ns := start(t)
	c.playNodes(t, ns+"-a")
	if _, err := c.client.AppsV1().Deployments(ns).Create(t.Context(), deployment(ns, "v1", 4), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.rolledOut(t, ns)
	c.patch(t, ns, `{"spec":{"progressDeadlineSeconds":2,"minReadySeconds":0}}`)
	c.rolledOut(t, ns)
	c.patch(t, ns, setImage("broken"))
	eventually(t, "the deadline", func() string {
		d, err := c.client.AppsV1().Deployments(ns).Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		return differs(progressing(d), "False ProgressDeadlineExceeded")
	})
	// 25 % of 4: one more, one less.
	if got := c.images(t, ns); got != "broken broken v1 v1 v1" {
		t.Errorf("pods %q", got)
	}
}

func TestServiceFollowsPods(t *testing.T) {
	c, ns := start(t)
	c.playNodes(t, ns+"-a", ns+"-b")
	ctx := t.Context()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt(8080)}}},
	}
	if _, err := c.client.CoreV1().Services(ns).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.AppsV1().Deployments(ns).Create(ctx, deployment(ns, "v1", 3), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.rolledOut(t, ns)
	expect := func(n int) {
		t.Helper()
		eventually(t, "endpoints", func() string {
			slices, err := c.client.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"})
			if err != nil {
				return err.Error()
			}
			found := 0
			for _, s := range slices.Items {
				for _, e := range s.Endpoints {
					if e.Conditions.Ready != nil && *e.Conditions.Ready && s.AddressType == discoveryv1.AddressTypeIPv4 && *s.Ports[0].Port == 8080 {
						found++
					}
				}
			}
			ep, err := c.client.CoreV1().Endpoints(ns).Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			addresses := 0
			for _, s := range ep.Subsets {
				addresses += len(s.Addresses)
			}
			return differs(fmt.Sprintf("%d in slices, %d in endpoints", found, addresses), fmt.Sprintf("%d in slices, %d in endpoints", n, n))
		})
	}
	expect(3)
	c.patch(t, ns, `{"spec":{"replicas":1}}`)
	expect(1)
}
