// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"

	"skep.dev/skep/tests/probeimage"
)

// namespace makes a namespace that is gone, with everything in it, when the test ends.
func namespace(t *testing.T, name string) string {
	t.Helper()
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		zero := int64(0)
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		_ = client.CoreV1().Pods(name).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{})
		if err := client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete namespace %s: %v", name, err)
		}
		err := wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			_, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
			return err != nil, nil
		})
		if err != nil {
			t.Errorf("namespace %s does not go away: %v", name, err)
		}
	})
	return name
}

// probePod describes a pod that runs the probe as a server. A node pins it there; empty leaves that to the scheduler.
func probePod(name, node string, labels map[string]string) *corev1.Pod {
	zero := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       probeSpec(node, &zero),
	}
}

func probeSpec(node string, grace *int64) corev1.PodSpec {
	spec := corev1.PodSpec{
		TerminationGracePeriodSeconds: grace,
		Containers: []corev1.Container{{
			Name: "probe", Image: probeimage.Ref, ImagePullPolicy: corev1.PullIfNotPresent,
			Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}, {Name: "echo", ContainerPort: 9000}},
			ReadinessProbe: &corev1.Probe{
				PeriodSeconds: 1,
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromString("web")}},
			},
		}},
	}
	if node != "" {
		spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	}
	return spec
}

func probeService(name string, selector map[string]string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{
			{Name: "web", Port: 80, TargetPort: intstr.FromString("web")},
			{Name: "echo", Port: 9000, TargetPort: intstr.FromString("echo")},
			{Name: "echo-udp", Port: 9000, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(9000)},
		}},
	}
}

// allow is a policy that isolates the pods with label app=to for ingress and lets in those with label app=from.
// An empty from lets in nobody.
func allow(name, to, from string) *networkingv1.NetworkPolicy {
	policy := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": to}},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		},
	}
	if from != "" {
		peer := metav1.LabelSelector{MatchLabels: map[string]string{"app": from}}
		policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &peer}}}}
	}
	return policy
}

func createPods(t *testing.T, namespace string, pods ...*corev1.Pod) {
	t.Helper()
	for _, pod := range pods {
		if _, err := client.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, pod := range pods {
		waitReady(t, namespace, pod.Name)
	}
}

func waitReady(t *testing.T, namespace, pod string) *corev1.Pod {
	t.Helper()
	return waitPod(t, namespace, pod, "is Ready", func(pod *corev1.Pod) bool {
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady {
				return condition.Status == corev1.ConditionTrue
			}
		}
		return false
	})
}

// waitPod waits until a pod satisfies a predicate, and shows the pod as people would look at it when it does not.
func waitPod(t *testing.T, namespace, name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	eventually(t, 60*time.Second, func() error {
		var err error
		if pod, err = client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		if !ok(pod) {
			description, _ := tryKubectl(t, "describe", "pod", "-n", namespace, name)
			return fmt.Errorf("pod %s/%s never %s\n%s", namespace, name, what, description)
		}
		return nil
	})
	return pod
}

// eventually retries until check passes. It ends the test with the last error when time is up.
func eventually(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, limit, true, func(context.Context) (bool, error) {
		last = check()
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%v (after %v)", last, limit)
	}
}

// inPod runs the probe in a pod and decodes the JSON that it prints.
func inPod(t *testing.T, namespace, pod string, result any, args ...string) {
	t.Helper()
	if err := tryInPod(t, namespace, pod, result, args...); err != nil {
		t.Fatal(err)
	}
}

func tryInPod(t *testing.T, namespace, pod string, result any, args ...string) error {
	t.Helper()
	out, err := execInPod(t.Context(), namespace, pod, args...)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, result)
}

func execInPod(ctx context.Context, namespace, pod string, args ...string) ([]byte, error) {
	arguments := append([]string{"exec", "-n", namespace, pod, "--", "/probe"}, args...)
	cmd := withEnvironment(exec.CommandContext(ctx, skep, arguments...))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("in pod %s: probe %s: %w\n%s%s", pod, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.Bytes(), nil
}

// background starts the probe in a pod and returns a function that waits for its answer.
func background(t *testing.T, namespace, pod string, result any, args ...string) (wait func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		out, err := execInPod(t.Context(), namespace, pod, args...)
		if err == nil {
			err = json.Unmarshal(out, result)
		}
		done <- err
	}()
	return func() {
		t.Helper()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func nodeName(i int) string { return fmt.Sprintf("%s-%d", name, i) }

// serviceIP waits until a Service has an address and as many ready endpoints as it should.
func serviceIP(t *testing.T, namespace, name string, endpoints int) string {
	t.Helper()
	var address string
	eventually(t, 30*time.Second, func() error {
		service, err := client.CoreV1().Services(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		address = service.Spec.ClusterIP
		slices, err := client.DiscoveryV1().EndpointSlices(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + name})
		if err != nil {
			return err
		}
		ready := 0
		for _, slice := range slices.Items {
			for _, endpoint := range slice.Endpoints {
				if slice.AddressType == "IPv4" && endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
					ready++
				}
			}
		}
		if ready != endpoints {
			return fmt.Errorf("service %s has %d ready endpoints, not %d", name, ready, endpoints)
		}
		return nil
	})
	return address
}
