// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var start = time.Unix(100_000, 0)

func deploy(replicas int32, image, surge, unavailable string) *appsv1.Deployment {
	deadline, history := int32(600), int32(10)
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "d", Generation: 1}}
	d.Spec = appsv1.DeploymentSpec{
		Replicas:                &replicas,
		Selector:                &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		Strategy:                appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}},
		RevisionHistoryLimit:    &history,
		ProgressDeadlineSeconds: &deadline,
	}
	d.Spec.Template.Labels = map[string]string{"app": "web"}
	setImage(d, image)
	return d
}

func setImage(d *appsv1.Deployment, image string) {
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
	d.Generation++
}

// cluster applies plans as the shell would, and lets pods become ready one at a time.
type cluster struct {
	t    *testing.T
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	now  time.Time
	// log has a line for each change of size.
	log []string
	// broken images never become ready.
	broken map[string]bool
	made   int
}

func newCluster(t *testing.T, d *appsv1.Deployment) *cluster {
	return &cluster{t: t, d: d, now: start, broken: map[string]bool{}}
}

func (c *cluster) snapshot() snapshot { return snapshot{deployment: c.d, sets: c.sets, now: c.now} }

// pass decides once and applies; it reports whether anything but the status changed.
func (c *cluster) pass() bool {
	p := decide(c.snapshot())
	changed := false
	for _, u := range p.update {
		for i, s := range c.sets {
			if s.UID == u.set.UID {
				c.sets[i] = u.set
			}
		}
		if u.scaled() {
			c.log = append(c.log, fmt.Sprintf("%s %d->%d", image(u.set), replicas(u.old), replicas(u.set)))
		}
		changed = true
	}
	if p.create != nil {
		c.made++
		p.create.UID = types.UID(fmt.Sprint("rs", c.made))
		p.create.CreationTimestamp = metav1.NewTime(c.now)
		c.sets = append(c.sets, p.create)
		c.log = append(c.log, fmt.Sprintf("%s new %d", image(p.create), replicas(p.create)))
		changed = true
	}
	for _, gone := range p.remove {
		for i, s := range c.sets {
			if s.UID == gone.UID {
				c.sets = append(c.sets[:i:i], c.sets[i+1:]...)
				c.log = append(c.log, image(gone)+" forgotten")
				break
			}
		}
		changed = true
	}
	if p.revision != "" && c.d.Annotations[revisionKey] != p.revision {
		c.d.Annotations = map[string]string{revisionKey: p.revision}
		changed = true
	}
	c.d.Status = p.status
	c.now = c.now.Add(time.Second)
	return changed
}

func image(s *appsv1.ReplicaSet) string { return s.Spec.Template.Spec.Containers[0].Image }

// pods lets each set have the pods it asks for, and one more of them become ready.
func (c *cluster) pods() bool {
	changed := false
	for _, s := range c.sets {
		n := replicas(s)
		if s.Status.Replicas != n {
			// The worst pods go first: those that are not ready.
			s.Status.Replicas, changed = n, true
			s.Status.AvailableReplicas = min(s.Status.AvailableReplicas, n)
			s.Status.ReadyReplicas = s.Status.AvailableReplicas
		}
	}
	for _, s := range c.sets {
		if !c.broken[image(s)] && s.Status.AvailableReplicas < s.Status.Replicas {
			s.Status.AvailableReplicas++
			s.Status.ReadyReplicas++
			return true
		}
	}
	return changed
}

// settle runs until nothing changes, checking the bounds all the time.
func (c *cluster) settle(checkBounds bool) {
	c.t.Helper()
	b := boundsOf(c.d)
	for range 1000 {
		changed := c.pass()
		var size, available int32
		for _, s := range c.sets {
			size += replicas(s)
			available += min(s.Status.AvailableReplicas, replicas(s))
		}
		if checkBounds && size > b.want+b.maxSurge {
			c.t.Fatalf("%d pods asked for, at most %d may be\n%s", size, b.want+b.maxSurge, strings.Join(c.log, "\n"))
		}
		if checkBounds && available < b.want-b.maxUnavailable {
			c.t.Fatalf("%d pods available, at least %d must be\n%s", available, b.want-b.maxUnavailable, strings.Join(c.log, "\n"))
		}
		if !c.pods() && !changed {
			return
		}
	}
	c.t.Fatalf("does not settle\n%s", strings.Join(c.log, "\n"))
}

func (c *cluster) condition(t appsv1.DeploymentConditionType) string {
	found := find(c.d.Status.Conditions, t)
	if found == nil {
		return "none"
	}
	return fmt.Sprintf("%s %s", found.Status, found.Reason)
}

func (c *cluster) expect(what, got, want string) {
	c.t.Helper()
	if got != want {
		c.t.Errorf("%s:\ngot  %s\nwant %s", what, got, want)
	}
}

func (c *cluster) takeLog() string {
	out := strings.Join(c.log, ", ")
	c.log = nil
	return out
}

func TestRollout(t *testing.T) {
	c := newCluster(t, deploy(3, "v1", "1", "0"))
	c.settle(false)
	c.expect("first rollout", c.takeLog(), "v1 new 3")
	c.expect("progressing", c.condition(appsv1.DeploymentProgressing), "True NewReplicaSetAvailable")
	c.expect("available", c.condition(appsv1.DeploymentAvailable), "True MinimumReplicasAvailable")
	c.expect("revision", c.d.Annotations[revisionKey], "1")

	setImage(c.d, "v2")
	c.settle(true)
	c.expect("second rollout", c.takeLog(), "v2 new 1, v1 3->2, v2 1->2, v1 2->1, v2 2->3, v1 1->0")
	c.expect("revision", c.d.Annotations[revisionKey], "2")
	c.expect("status", statusText(c.d), "replicas 3 updated 3 ready 3 available 3 unavailable 0 observed 3")

	setImage(c.d, "v1") // what kubectl rollout undo does
	c.settle(true)
	c.expect("undo", c.takeLog(), "v1 0->1, v2 3->2, v1 1->2, v2 2->1, v1 2->3, v2 1->0")
	c.expect("revision", c.d.Annotations[revisionKey], "3")
	c.expect("history", c.sets[0].Annotations[historyKey], "1")
	if len(c.sets) != 2 {
		t.Errorf("%d replica sets, want 2", len(c.sets))
	}
}

func statusText(d *appsv1.Deployment) string {
	s := d.Status
	return fmt.Sprintf("replicas %d updated %d ready %d available %d unavailable %d observed %d",
		s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas, s.UnavailableReplicas, s.ObservedGeneration)
}

func TestRolloutKeepsItsBounds(t *testing.T) {
	for _, replicas := range []int32{0, 1, 2, 3, 7, 10, 25} {
		for _, surge := range []string{"0", "1", "3", "25%", "100%"} {
			for _, unavailable := range []string{"0", "1", "2", "25%", "100%"} {
				c := newCluster(t, deploy(replicas, "v1", surge, unavailable))
				c.settle(false)
				for _, next := range []string{"v2", "v3", "v1"} {
					setImage(c.d, next)
					c.settle(true)
				}
				if got, want := fmt.Sprint(c.condition(appsv1.DeploymentProgressing), total(c.sets), replicasOf(c, "v1")), fmt.Sprint("True NewReplicaSetAvailable", replicas, replicas); got != want {
					t.Errorf("replicas %d, surge %s, unavailable %s: ended as %s, want %s", replicas, surge, unavailable, got, want)
				}
			}
		}
	}
}

func replicasOf(c *cluster, wanted string) int32 {
	var n int32
	for _, s := range c.sets {
		if image(s) == wanted {
			n += replicas(s)
		}
	}
	return n
}

func TestBrokenRolloutStops(t *testing.T) {
	c := newCluster(t, deploy(4, "v1", "1", "1"))
	c.settle(false)
	c.takeLog()
	c.broken["bad"] = true
	setImage(c.d, "bad")
	c.settle(true)
	c.expect("what happened", c.takeLog(), "bad new 1, v1 4->3, bad 1->2")
	c.expect("in time", c.condition(appsv1.DeploymentProgressing), "True ReplicaSetUpdated")
	p := decide(c.snapshot())
	if p.again <= 0 || p.again > 602*time.Second {
		t.Errorf("looks again after %s", p.again)
	}
	c.now = c.now.Add(p.again)
	c.pass()
	c.expect("too late", c.condition(appsv1.DeploymentProgressing), "False ProgressDeadlineExceeded")
	if c.pass(); decide(c.snapshot()).again != 0 {
		t.Error("goes on looking after the deadline")
	}
	setImage(c.d, "v1")
	c.settle(true)
	c.expect("after undo", c.condition(appsv1.DeploymentProgressing), "True NewReplicaSetAvailable")
}

func TestBrokenPodsGoFirst(t *testing.T) {
	c := newCluster(t, deploy(5, "v1", "0", "2"))
	c.settle(false)
	c.broken["bad"] = true
	setImage(c.d, "bad")
	c.settle(true)
	c.takeLog()
	setImage(c.d, "v3")
	c.pass()
	c.pass()
	c.expect("the broken set goes before the good one", c.takeLog(), "v3 new 0, bad 2->0")
}

func TestPauseAndResume(t *testing.T) {
	c := newCluster(t, deploy(3, "v1", "1", "0"))
	c.settle(false)
	c.takeLog()
	c.d.Spec.Paused = true
	setImage(c.d, "v2")
	c.settle(true)
	c.expect("nothing rolls out while paused", c.takeLog(), "")
	c.expect("progressing", c.condition(appsv1.DeploymentProgressing), "Unknown DeploymentPaused")
	five := int32(5)
	c.d.Spec.Replicas = &five
	c.settle(false)
	c.expect("but it can be scaled", c.takeLog(), "v1 3->5")
	c.d.Spec.Paused = false
	c.settle(true)
	c.expect("progressing", c.condition(appsv1.DeploymentProgressing), "True NewReplicaSetAvailable")
	if replicasOf(c, "v2") != 5 || total(c.sets) != 5 {
		t.Errorf("not rolled out: %s", c.takeLog())
	}
}

func TestResumeHalfWay(t *testing.T) {
	c := newCluster(t, deploy(3, "v1", "1", "0"))
	c.settle(false)
	c.broken["v2"] = true
	setImage(c.d, "v2")
	c.settle(true)
	c.d.Spec.Paused = true
	c.settle(true)
	c.d.Spec.Paused = false
	c.pass()
	c.expect("progressing", c.condition(appsv1.DeploymentProgressing), "Unknown DeploymentResumed")
}

func TestScaleHalfWay(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to int32
		old, new int32 // sizes when it is scaled
		want     string
	}{
		{"up: shares grow alike", 10, 20, 8, 5, "v1 8->14, v2 5->9"},
		{"down: shares shrink alike", 10, 5, 8, 5, "v1 8->5, v2 5->3"},
		{"to nothing", 10, 0, 8, 5, "v1 8->0, v2 5->0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cl := newCluster(t, deploy(c.from, "v1", "3", "2"))
			cl.settle(false)
			cl.broken["v2"] = true
			setImage(cl.d, "v2")
			cl.pass()
			for _, s := range cl.sets {
				size := c.old
				if image(s) == "v2" {
					size = c.new
				}
				s.Spec.Replicas = &size
			}
			cl.takeLog()
			cl.d.Spec.Replicas = &c.to
			cl.pass()
			cl.expect("sizes", cl.takeLog(), c.want)
			if look(cl.snapshot()).resized() {
				t.Error("still thinks that it was scaled")
			}
		})
	}
}

func TestRecreate(t *testing.T) {
	c := newCluster(t, deploy(2, "v1", "0", "0"))
	c.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	c.settle(false)
	c.expect("first", c.takeLog(), "v1 new 2")
	setImage(c.d, "v2")
	c.pass()
	c.expect("old ones first", c.takeLog(), "v1 2->0")
	s := c.snapshot()
	s.pods = map[string][]*corev1.Pod{"rs1": {{Status: corev1.PodStatus{Phase: corev1.PodRunning}}}}
	if p := decide(s); p.create != nil {
		t.Error("starts while an old pod runs")
	}
	s.pods["rs1"][0].Status.Phase = corev1.PodSucceeded
	if p := decide(s); p.create == nil {
		t.Error("does not start when the old pod has ended")
	}
	c.settle(false)
	c.expect("then new ones", c.takeLog(), "v2 new 2")
}

func TestRecreateWaitsWithoutWriting(t *testing.T) {
	c := newCluster(t, deploy(2, "v1", "0", "0"))
	c.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	c.settle(false)
	setImage(c.d, "v2")
	c.pass()
	c.pods()
	s := c.snapshot()
	s.pods = map[string][]*corev1.Pod{"rs1": {{Status: corev1.PodStatus{Phase: corev1.PodRunning}}}}
	c.d.Status = decide(s).status
	s.now = s.now.Add(10 * time.Second)
	if again := decide(s).status; !apiequality.Semantic.DeepEqual(again, c.d.Status) {
		t.Errorf("the status changes though nothing happened:\n%v\n%v", c.d.Status, again)
	}
}

func TestHistoryIsLimited(t *testing.T) {
	c := newCluster(t, deploy(1, "v1", "1", "0"))
	two := int32(2)
	c.d.Spec.RevisionHistoryLimit = &two
	for i := 1; i <= 5; i++ {
		setImage(c.d, fmt.Sprint("v", i))
		c.settle(i > 1)
	}
	var kept []string
	for _, s := range c.sets {
		kept = append(kept, image(s))
	}
	c.expect("kept", strings.Join(kept, " "), "v3 v4 v5")
}

func TestAnnotationsReachTheReplicaSet(t *testing.T) {
	c := newCluster(t, deploy(1, "v1", "1", "0"))
	c.d.Annotations = map[string]string{"kubernetes.io/change-cause": "first", corev1.LastAppliedConfigAnnotation: "{}"}
	c.pass()
	a := c.sets[0].Annotations
	if a["kubernetes.io/change-cause"] != "first" || a[corev1.LastAppliedConfigAnnotation] != "" {
		t.Errorf("annotations %v", a)
	}
}

func TestCollisionGivesAnotherName(t *testing.T) {
	template := deploy(1, "v1", "1", "0").Spec.Template
	one := int32(1)
	if templateHash(&template, nil) == templateHash(&template, &one) {
		t.Error("the collision count does not change the name")
	}
}
