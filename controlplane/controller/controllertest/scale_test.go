// SPDX-License-Identifier: Apache-2.0

package controllertest

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// TestManyPodsOnceEach counts every pod that is ever made, and where it is placed.
func TestManyPodsOnceEach(t *testing.T) {
	const replicas = 150
	c, ns := start(t)
	ctx := t.Context()
	c.playNodes(t, ns+"-a", ns+"-b", ns+"-c")
	watcher, err := c.client.CoreV1().Pods(ns).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Read all the time: the server ends a watch whose reader falls behind.
	made := make(chan int, 1)
	go func() { made <- addedUntil(watcher, "last") }()
	began := time.Now()
	if _, err := c.client.AppsV1().Deployments(ns).Create(ctx, deployment(ns, "v1", replicas), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.rolledOut(t, ns)
	t.Logf("%d pods made, placed and ready in %s", replicas, time.Since(began).Round(time.Millisecond))
	if _, err := c.client.CoreV1().Pods(ns).Create(ctx, lonePod(ns, "last", "1m"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := <-made; n != replicas {
		t.Errorf("%d pods were made for %d replicas", n, replicas)
	}
	watcher.Stop()
	pods, err := c.client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, p := range pods.Items {
		counts[p.Spec.NodeName]++
	}
	for name, n := range counts {
		if n < replicas/3-1 || n > replicas/3+1 {
			t.Errorf("%s has %d of %d pods: %s", name, n, replicas, fmt.Sprint(counts))
		}
	}
}

// addedUntil counts the objects that a watch shows as added before the one with the given name.
func addedUntil(watcher watch.Interface, name string) (n int) {
	for event := range watcher.ResultChan() {
		if event.Type != watch.Added {
			continue
		}
		if accessor, ok := event.Object.(metav1.Object); ok && accessor.GetName() == name {
			break
		}
		n++
	}
	return n
}
