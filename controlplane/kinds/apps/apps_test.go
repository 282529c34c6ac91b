// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

// classic is the manifest of every introduction.
func classic() *appsv1.Deployment {
	d := &appsv1.Deployment{}
	if err := yaml.UnmarshalStrict([]byte(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: nginx, labels: {app: nginx}}
spec:
  replicas: 3
  selector: {matchLabels: {app: nginx}}
  template:
    metadata: {labels: {app: nginx}}
    spec:
      containers:
      - {name: nginx, image: "nginx:1.17.1", ports: [{containerPort: 80}]}
`), d); err != nil {
		panic(err)
	}
	return d
}

type deploymentCase struct {
	Name   string
	Change func(*appsv1.Deployment)
	Want   []string
}

func rolling(surge, unavailable intstr.IntOrString) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}
	}
}

func TestDeploymentsAreChecked(t *testing.T) {
	kindtest.Create(t, Deployment(), classic, []deploymentCase{
		{"the classic manifest", func(*appsv1.Deployment) {}, nil},
		{"fewer than none", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](-1) }, []string{"spec.replicas: Invalid value: -1: must be greater than or equal to 0"}},
		{"no selector", func(d *appsv1.Deployment) { d.Spec.Selector = nil }, []string{"spec.selector: Required value", "spec.template.metadata.labels: Invalid value: {\"app\":\"nginx\"}: `selector` does not match"}},
		{"a selector of all", func(d *appsv1.Deployment) { d.Spec.Selector = &metav1.LabelSelector{} }, []string{"spec.selector: Invalid value: {}: empty selector is invalid for deployment"}},
		{"a selector of others", func(d *appsv1.Deployment) { d.Spec.Selector.MatchLabels["app"] = "web" }, []string{"spec.template.metadata.labels: Invalid value: {\"app\":\"nginx\"}: `selector` does not match template `labels`"}},
		{"a template without containers", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers = nil }, []string{"spec.template.spec.containers: Required value"}},
		{"a bad port in the template", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Ports[0].ContainerPort = 99999 }, []string{"spec.template.spec.containers[0].ports[0].containerPort: Invalid value: 99999: must be between 1 and 65535, inclusive"}},
		{"pods that end", func(d *appsv1.Deployment) { d.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever }, []string{`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`}},
		{"pods with a deadline", func(d *appsv1.Deployment) { d.Spec.Template.Spec.ActiveDeadlineSeconds = ptr.To[int64](1) }, []string{"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported"}},
		{"no room to move", rolling(intstr.FromInt32(0), intstr.FromString("0%")), []string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"}},
		{"more than all", rolling(intstr.FromInt32(1), intstr.FromString("101%")), []string{`spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%`}},
		{"not a percentage", rolling(intstr.FromString("some"), intstr.FromInt32(1)), []string{`spec.strategy.rollingUpdate.maxSurge: Invalid value: "some": a valid percent string must be a numeric string followed by an ending '%'`}},
		{"recreate with a rolling update", func(d *appsv1.Deployment) {
			rolling(intstr.FromInt32(1), intstr.FromInt32(1))(d)
			d.Spec.Strategy.Type = "Recreate"
		}, []string{"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"}},
		{"a deadline before readiness", func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 600 }, []string{"spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"}},
	})
	kindtest.Update(t, Deployment(), classic, []deploymentCase{
		{"an image", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:1.18" }, nil},
		{"the selector", func(d *appsv1.Deployment) {
			d.Spec.Selector.MatchLabels["tier"], d.Spec.Template.Labels["tier"] = "front", "front"
		}, []string{`spec.selector: Invalid value: {"matchLabels":{"app":"nginx","tier":"front"}}: field is immutable`}},
	})
	kindtest.StatusUpdate(t, Deployment(), func() *appsv1.Deployment {
		return &appsv1.Deployment{Status: appsv1.DeploymentStatus{Replicas: 3, ReadyReplicas: 2, AvailableReplicas: 1, CollisionCount: ptr.To[int32](1)}}
	}, []deploymentCase{
		{"nothing", func(*appsv1.Deployment) {}, nil},
		{"more ready than there are", func(d *appsv1.Deployment) { d.Status.ReadyReplicas = 4 }, []string{"status.readyReplicas: Invalid value: 4: cannot be greater than status.replicas"}},
		{"more available than ready", func(d *appsv1.Deployment) { d.Status.AvailableReplicas = 3 }, []string{"status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas"}},
		{"fewer collisions", func(d *appsv1.Deployment) { d.Status.CollisionCount = nil }, []string{"status.collisionCount: Invalid value: null: cannot be decremented"}},
	})
}

func TestDeploymentDefaults(t *testing.T) {
	d := classic()
	d.Spec.Replicas = nil
	kindtest.DefaultsOnce(t, Deployment(), d)
	template := d.Spec.Template
	d.Spec.Template = corev1.PodTemplateSpec{}
	want := appsv1.DeploymentSpec{
		Replicas: ptr.To[int32](1), Selector: d.Spec.Selector, RevisionHistoryLimit: ptr.To[int32](10), ProgressDeadlineSeconds: ptr.To[int32](600),
		Strategy: appsv1.DeploymentStrategy{Type: "RollingUpdate", RollingUpdate: &appsv1.RollingUpdateDeployment{
			MaxUnavailable: ptr.To(intstr.FromString("25%")), MaxSurge: ptr.To(intstr.FromString("25%"))}},
	}
	if diff := cmp.Diff(want, d.Spec); diff != "" {
		t.Errorf("defaulted (-want +got):\n%s", diff)
	}
	spec := template.Spec
	if spec.RestartPolicy != "Always" || *spec.TerminationGracePeriodSeconds != 30 || spec.SecurityContext == nil {
		t.Errorf("the template lacks defaults: %+v", spec)
	}
	if spec.EnableServiceLinks != nil || spec.Containers[0].Resources.Requests != nil {
		t.Error("the template has defaults that only pods get")
	}
}

func TestAnnotationsOfADeploymentAreANewGeneration(t *testing.T) {
	old, d := classic(), classic()
	old.Generation, d.Generation = 4, 4
	d.Labels = map[string]string{"a": "b"}
	Deployment().PrepareForUpdate(t.Context(), d, old)
	if d.Generation != 4 {
		t.Errorf("generation %d after a label", d.Generation)
	}
	d.Annotations = map[string]string{"a": "b"}
	Deployment().PrepareForUpdate(t.Context(), d, old)
	if d.Generation != 5 {
		t.Errorf("generation %d after an annotation, want 5", d.Generation)
	}
}

func TestWorkloadLines(t *testing.T) {
	d := classic()
	d.CreationTimestamp = metav1.NewTime(time.Now().Add(-50 * time.Hour))
	d.Status = appsv1.DeploymentStatus{ReadyReplicas: 2, UpdatedReplicas: 3, AvailableReplicas: 2}
	want := []any{"nginx", "2/3", int64(3), int64(2), "2d2h", "nginx", "nginx:1.17.1", "app=nginx"}
	if diff := cmp.Diff(want, kindtest.Line(Deployment(), d, true)); diff != "" {
		t.Errorf("deployment (-want +got):\n%s", diff)
	}
	r := &appsv1.ReplicaSet{ObjectMeta: d.ObjectMeta, Spec: appsv1.ReplicaSetSpec{Replicas: d.Spec.Replicas, Selector: d.Spec.Selector, Template: d.Spec.Template},
		Status: appsv1.ReplicaSetStatus{Replicas: 3, ReadyReplicas: 1}}
	want = []any{"nginx", int64(3), int64(3), int64(1), "2d2h", "nginx", "nginx:1.17.1", "app=nginx"}
	if diff := cmp.Diff(want, kindtest.Line(ReplicaSet(), r, true)); diff != "" {
		t.Errorf("replica set (-want +got):\n%s", diff)
	}
	if k := Deployment(); k.Scale.Replicas(d) != 3 || k.Scale.Selector(d) != "app=nginx" {
		t.Errorf("scale: %d of %q", k.Scale.Replicas(d), k.Scale.Selector(d))
	}
}
