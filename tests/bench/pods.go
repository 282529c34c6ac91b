// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"skep.dev/skep/tests/probeimage"
)

// benchPods creates pods one after another, each beside a bare containerd create and start of the same image.
func (c *cluster) benchPods(ctx context.Context) error {
	runtime, err := containerd.New("/run/skep/" + c.name + "/containerd/containerd.sock")
	if err != nil {
		return err
	}
	defer runtime.Close()
	bareContext := namespaces.WithNamespace(ctx, "skep-"+c.name+"-"+c.node(1))
	var pods, bare []time.Duration
	for i := range c.pods {
		took, err := c.podRuns(ctx, fmt.Sprintf("bench-%d", i))
		if err != nil {
			return err
		}
		pods = append(pods, took)
		if took, err = bareRuns(bareContext, runtime, fmt.Sprintf("bare-%d", i)); err != nil {
			return err
		}
		bare = append(bare, took)
	}
	row("pod created -> Running", "p50 %v, p99 %v", quantile(pods, 0.5), quantile(pods, 0.99))
	row("bare containerd create + start", "p50 %v, p99 %v", quantile(bare, 0.5), quantile(bare, 0.99))
	row("ratio of the medians", "%.2f (bar 1.5)", float64(quantile(pods, 0.5))/float64(quantile(bare, 0.5)))
	return nil
}

func (c *cluster) node(i int) string { return fmt.Sprintf("%s-%d", c.name, i) }

// benchPod runs the probe as a server on one node.
func (c *cluster) benchPod(name, node string, labels map[string]string) *corev1.Pod {
	zero := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &zero,
			NodeSelector:                  map[string]string{corev1.LabelHostname: node},
			Containers:                    []corev1.Container{{Name: "probe", Image: probeimage.Ref, ImagePullPolicy: corev1.PullNever}},
		},
	}
}

// podRuns measures from the create call to the watch event that says Running, then deletes the pod.
func (c *cluster) podRuns(ctx context.Context, name string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	pods := c.client.CoreV1().Pods("default")
	events, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return 0, err
	}
	defer events.Stop()
	began := time.Now()
	if _, err := pods.Create(ctx, c.benchPod(name, c.node(1), nil), metav1.CreateOptions{}); err != nil {
		return 0, err
	}
	if err := untilEvent(events, func(e watch.Event) bool {
		pod, ok := e.Object.(*corev1.Pod)
		return ok && pod.Status.Phase == corev1.PodRunning
	}); err != nil {
		return 0, fmt.Errorf("pod %s does not run: %w", name, err)
	}
	took := time.Since(began)
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return 0, err
	}
	return took, untilEvent(events, func(e watch.Event) bool { return e.Type == watch.Deleted })
}

func untilEvent(events watch.Interface, done func(watch.Event) bool) error {
	for event := range events.ResultChan() {
		if done(event) {
			return nil
		}
	}
	return fmt.Errorf("the watch ended first")
}

// bareRuns measures create and start of one container with containerd alone, then removes it.
func bareRuns(ctx context.Context, client *containerd.Client, name string) (time.Duration, error) {
	image, err := client.GetImage(ctx, probeimage.Ref)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	container, err := client.NewContainer(ctx, name, containerd.WithNewSnapshot(name, image),
		containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithCgroup("/skep-bench/"+name)))
	if err != nil {
		return 0, err
	}
	defer func() { _ = container.Delete(ctx, containerd.WithSnapshotCleanup) }()
	task, err := container.NewTask(ctx, cio.NullIO)
	if err != nil {
		return 0, err
	}
	if err := task.Start(ctx); err != nil {
		return 0, err
	}
	took := time.Since(began)
	_, err = task.Delete(ctx, containerd.WithProcessKill)
	return took, err
}

func quantile(times []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[int(q*float64(len(sorted)-1)+0.5)].Round(100 * time.Microsecond)
}
