// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
)

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
}

func TestListsComeInChunks(t *testing.T) {
	c := shared.client.CoreV1().ConfigMaps(namespace(t))
	want := map[string]bool{}
	for i := range 25 {
		name := fmt.Sprintf("c%02d", i)
		want[name] = true
		if _, err := c.Create(t.Context(), configMap(name, nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	options, pages := metav1.ListOptions{Limit: 10}, 0
	for {
		list, err := c.List(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, item := range list.Items {
			delete(want, item.Name)
		}
		if list.Continue == "" {
			break
		}
		if list.RemainingItemCount == nil {
			t.Error("a chunk does not say how much remains")
		}
		options.Continue = list.Continue
	}
	if pages != 3 || len(want) != 0 {
		t.Errorf("%d pages, missing %v", pages, want)
	}
}

func TestWatchSeesChangesInOrder(t *testing.T) {
	c := shared.client.CoreV1().ConfigMaps(namespace(t))
	w, err := c.Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=w"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	cm, err := c.Create(t.Context(), configMap("w", map[string]string{"a": "1"}), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first := cm.ResourceVersion
	cm.Data["a"] = "2"
	if _, err := c.Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), "w", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
		if e := <-w.ResultChan(); e.Type != want {
			t.Fatalf("got %s, want %s", e.Type, want)
		}
	}
	replay, err := c.Watch(t.Context(), metav1.ListOptions{ResourceVersion: first})
	if err != nil {
		t.Fatal(err)
	}
	defer replay.Stop()
	if e := <-replay.ResultChan(); e.Type != watch.Modified {
		t.Fatalf("replay from %s starts with %s", first, e.Type)
	}
}

func TestAWatchThatSendsTheListEndsItWithABookmark(t *testing.T) {
	c := shared.client.CoreV1().ConfigMaps(namespace(t))
	if _, err := c.Create(t.Context(), configMap("a", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	yes := true
	w, err := c.Watch(t.Context(), metav1.ListOptions{SendInitialEvents: &yes, AllowWatchBookmarks: true,
		ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, FieldSelector: "metadata.name=a"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if e := <-w.ResultChan(); e.Type != watch.Added {
		t.Fatalf("got %s first", e.Type)
	}
	e := <-w.ResultChan()
	if e.Type != watch.Bookmark {
		t.Fatalf("got %s after the list", e.Type)
	}
	m, err := meta.Accessor(e.Object)
	if err != nil || m.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" {
		t.Errorf("the bookmark does not end the list: %v", m.GetAnnotations())
	}
}

func TestPatches(t *testing.T) {
	ns := namespace(t)
	post(t, "/apis/apps/v1/namespaces/"+ns+"/deployments", deployment(ns, "web"), http.StatusCreated)
	path := "/apis/apps/v1/namespaces/" + ns + "/deployments/web"
	for _, c := range []struct {
		contentType types.PatchType
		body, where string
		want        any
	}{
		{types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"x"}]}}}}`, "containers", 2},
		{types.MergePatchType, `{"metadata":{"labels":{"a":"b"}}}`, "label", "b"},
		{types.JSONPatchType, `[{"op":"replace","path":"/spec/replicas","value":5}]`, "replicas", 5},
	} {
		code, data := patch(t, path, string(c.contentType), []byte(c.body))
		if code != http.StatusOK {
			t.Errorf("%s: %d: %s", c.contentType, code, data)
			continue
		}
		var d appsv1.Deployment
		decode(t, data, &d)
		got := map[string]any{
			"containers": len(d.Spec.Template.Spec.Containers), "label": d.Labels["a"], "replicas": int(*d.Spec.Replicas),
		}[c.where]
		if got != c.want {
			t.Errorf("%s: %s is %v, want %v", c.contentType, c.where, got, c.want)
		}
	}
}

func deployment(ns, name string) tree {
	d := object("apps/v1", "Deployment", ns, name)
	labels := tree{"app": name}
	d["spec"] = tree{
		"replicas": 1, "selector": tree{"matchLabels": labels},
		"template": tree{"metadata": tree{"labels": labels}, "spec": tree{"containers": []any{tree{"name": "c", "image": "nginx:1.17.1"}}}},
	}
	return d
}

func TestServerSideApplyTellsOwnersApart(t *testing.T) {
	c := shared.client.CoreV1().ConfigMaps(namespace(t))
	apply := func(manager, value string, force bool) error {
		cm := applycorev1.ConfigMap("a", "").WithData(map[string]string{"k": value})
		cm.Namespace = nil
		_, err := c.Apply(t.Context(), cm, metav1.ApplyOptions{FieldManager: manager, Force: force})
		return err
	}
	if err := apply("one", "1", false); err != nil {
		t.Fatal(err)
	}
	err := apply("two", "2", false)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), ".data.k") {
		t.Errorf("another manager's value was changed: %v", err)
	}
	if err := apply("two", "2", true); err != nil {
		t.Errorf("with force: %v", err)
	}
}

func TestAnOldVersionIsAConflict(t *testing.T) {
	c := shared.client.CoreV1().ConfigMaps(namespace(t))
	cm, err := c.Create(t.Context(), configMap("a", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second := cm.DeepCopy()
	second.Data = map[string]string{"x": "y"}
	if _, err := c.Update(t.Context(), second, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	cm.Data = map[string]string{"x": "z"}
	if _, err := c.Update(t.Context(), cm, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("got %v", err)
	}
}

func TestStatusAndSpecAreWrittenApart(t *testing.T) {
	ns := namespace(t)
	c := shared.client.CoreV1().Pods(ns)
	pod, err := c.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec:       corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Status.Phase != corev1.PodPending || pod.Generation != 1 {
		t.Errorf("created with phase %s, generation %d", pod.Status.Phase, pod.Generation)
	}
	pod.Status.Phase = corev1.PodRunning
	pod.Spec.Containers[0].Image = "other"
	pod, err = c.UpdateStatus(t.Context(), pod, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Status.Phase != corev1.PodRunning || pod.Spec.Containers[0].Image != "i" || pod.Generation != 1 {
		t.Errorf("after a status write: %s, %s, generation %d", pod.Status.Phase, pod.Spec.Containers[0].Image, pod.Generation)
	}
	pod.Spec.Containers[0].Image = "other"
	pod.Status.Phase = corev1.PodFailed
	pod, err = c.Update(t.Context(), pod, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if pod.Status.Phase != corev1.PodRunning || pod.Spec.Containers[0].Image != "other" || pod.Generation != 2 {
		t.Errorf("after a spec write: %s, %s, generation %d", pod.Status.Phase, pod.Spec.Containers[0].Image, pod.Generation)
	}
}

func TestTablesHaveTheColumnsKubectlPrints(t *testing.T) {
	ns := namespace(t)
	post(t, "/api/v1/namespaces/"+ns+"/services", service(ns, "s", tree{"ports": []any{tree{"port": 80}}}), http.StatusCreated)
	header := http.Header{"Accept": {"application/json;as=Table;v=v1;g=meta.k8s.io"}}
	code, data := call(t, shared.config, http.MethodGet, "/api/v1/namespaces/"+ns+"/services", header, nil)
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, data)
	}
	var table metav1.Table
	decode(t, data, &table)
	var names []string
	for _, c := range table.ColumnDefinitions {
		names = append(names, c.Name)
	}
	if want := []string{"Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector"}; !slices.Equal(names, want) {
		t.Errorf("columns %v, want %v", names, want)
	}
	if len(table.Rows) != 1 || table.Rows[0].Cells[0] != "s" || !strings.Contains(string(table.Rows[0].Object.Raw), "PartialObjectMetadata") {
		t.Errorf("rows %+v", table.Rows)
	}
}

func TestSelectors(t *testing.T) {
	ns := namespace(t)
	pods := shared.client.CoreV1().Pods(ns)
	for _, c := range []struct{ name, node, label string }{{"a", "n1", "x"}, {"b", "n2", "x"}, {"c", "n1", "y"}} {
		_, err := pods.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: c.name, Labels: map[string]string{"l": c.label}},
			Spec:       corev1.PodSpec{NodeName: c.node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		options metav1.ListOptions
		want    string
	}{
		{metav1.ListOptions{FieldSelector: "spec.nodeName=n1"}, "a c"},
		{metav1.ListOptions{FieldSelector: "spec.nodeName=n1", LabelSelector: "l=x"}, "a"},
		{metav1.ListOptions{LabelSelector: "l in (x)"}, "a b"},
		{metav1.ListOptions{FieldSelector: "metadata.name!=a"}, "b c"},
		{metav1.ListOptions{FieldSelector: "spec.nodeName=n1", ResourceVersion: "0"}, "a c"},
	} {
		list, err := pods.List(t.Context(), c.options)
		if err != nil {
			t.Errorf("%+v: %v", c.options, err)
			continue
		}
		var names []string
		for _, p := range list.Items {
			names = append(names, p.Name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%+v: %q, want %q", c.options, got, c.want)
		}
	}
	if _, err := pods.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.colour=red"}); !apierrors.IsBadRequest(err) {
		t.Errorf("an unknown field selector: %v", err)
	}
}

func TestOneEventHasTwoFaces(t *testing.T) {
	ns := namespace(t)
	_, err := shared.client.CoreV1().Events(ns).Create(t.Context(), &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "e"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: ns},
		Reason:         "Because", Message: "so it is", Type: "Normal", Count: 3,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := shared.client.EventsV1().Events(ns).Get(t.Context(), "e", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Note != "so it is" || got.Regarding.Name != "p" || got.DeprecatedCount != 3 {
		t.Errorf("got %+v", got)
	}
	_, err = shared.client.EventsV1().Events(ns).Create(t.Context(), &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "f"}, Regarding: corev1.ObjectReference{Kind: "Pod", Name: "q", Namespace: ns},
		EventTime: metav1.NowMicro(), ReportingController: "a.b/c", ReportingInstance: "i", Action: "Do", Reason: "R", Note: "n", Type: "Normal",
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	core, err := shared.client.CoreV1().Events(ns).Get(t.Context(), "f", metav1.GetOptions{})
	if err != nil || core.Message != "n" || core.InvolvedObject.Name != "q" {
		t.Errorf("got %+v, %v", core, err)
	}
	list, err := shared.client.EventsV1().Events(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) < 2 {
		t.Errorf("listed %v, %v", list, err)
	}
}

func TestScale(t *testing.T) {
	ns := namespace(t)
	post(t, "/apis/apps/v1/namespaces/"+ns+"/deployments", deployment(ns, "web"), http.StatusCreated)
	c := shared.client.AppsV1().Deployments(ns)
	scale, err := c.GetScale(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if scale.Spec.Replicas != 1 || scale.Status.Selector != "app=web" {
		t.Errorf("got %+v", scale)
	}
	scale.Spec.Replicas = 0
	if _, err := c.UpdateScale(t.Context(), "web", scale, metav1.UpdateOptions{}); err != nil {
		// The deployment controller may have written meanwhile.
		if !apierrors.IsConflict(err) {
			t.Fatal(err)
		}
		scale.ResourceVersion = ""
		if _, err := c.UpdateScale(t.Context(), "web", scale, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	d, err := c.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || *d.Spec.Replicas != 0 {
		t.Errorf("replicas %v, %v", d.Spec.Replicas, err)
	}
	scale.ResourceVersion, scale.Spec.Replicas = "", -1
	if _, err := c.UpdateScale(t.Context(), "web", scale, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a negative scale: %v", err)
	}
}

func TestBindingAndDeletionOfPods(t *testing.T) {
	ns := namespace(t)
	c := shared.client.CoreV1().Pods(ns)
	create := func(name string) {
		t.Helper()
		_, err := c.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	create("bound")
	create("free")
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	if err := c.Bind(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Bind(t.Context(), binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("bound twice: %v", err)
	}
	pod, err := c.Get(t.Context(), "bound", metav1.GetOptions{})
	if err != nil || pod.Spec.NodeName != "n" {
		t.Fatalf("on node %q, %v", pod.Spec.NodeName, err)
	}
	for _, name := range []string{"bound", "free"} {
		if err := c.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Get(t.Context(), "free", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod without a node is still there: %v", err)
	}
	pod, err = c.Get(t.Context(), "bound", metav1.GetOptions{})
	if err != nil || pod.DeletionTimestamp == nil || *pod.DeletionGracePeriodSeconds != 30 {
		t.Errorf("a bound pod waits for its node: %v, %v", pod.DeletionTimestamp, err)
	}
	zero := int64(0)
	if err := c.Delete(t.Context(), "bound", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), "bound", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("forced: %v", err)
	}
}

func TestANamespaceTakesItsContentAlong(t *testing.T) {
	const ns = "doomed"
	post(t, "/api/v1/namespaces", object("v1", "Namespace", "", ns), http.StatusCreated)
	if _, err := shared.client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("inside", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := shared.client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := shared.client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("late", nil), metav1.CreateOptions{})
	var refused *apierrors.StatusError
	if !errors.As(err, &refused) || !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
		t.Errorf("a write into a dying namespace: %v", err)
	}
	eventually(t, "the end of the namespace", func() bool {
		_, err := shared.client.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	post(t, "/api/v1/namespaces", object("v1", "Namespace", "", ns), http.StatusCreated)
	if _, err := shared.client.CoreV1().ConfigMaps(ns).Get(t.Context(), "inside", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("content of the old namespace is in the new one: %v", err)
	}
	if err := shared.client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}
