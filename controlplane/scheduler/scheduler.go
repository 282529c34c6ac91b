// SPDX-License-Identifier: Apache-2.0

// Package scheduler gives each pod a node. The decision is made in package place; here are the watches, the cache, the
// bindings and what people are told.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skep.dev/skep/controlplane/scheduler/place"
	"skep.dev/skep/controlplane/scheduler/queue"
)

// writers bounds the requests under way: bindings and status changes.
const writers = 32

// Config is what the scheduler needs. The owner of Informers shuts the factory down after Run has returned.
type Config struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Logger    *slog.Logger
	// Name selects the pods by spec.schedulerName; empty means default-scheduler.
	Name string
}

// Run places pods until the context ends.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Name == "" {
		cfg.Name = corev1.DefaultSchedulerName
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: cfg.Client.CoreV1().Events("")})
	s := &scheduler{
		client: cfg.Client,
		name:   cfg.Name,
		log:    cfg.Logger.With("component", "scheduler"),
		events: broadcaster.NewRecorder(clientscheme.Scheme, corev1.EventSource{Component: cfg.Name}),
		cache:  newCache(),
		queue:  queue.New(time.Now),
		slots:  make(chan struct{}, writers),
	}
	synced, err := s.watch(cfg.Informers)
	if ctx.Err() != nil {
		return nil // told to stop before the start was complete: informers that others started may have ended
	}
	if err != nil {
		return err
	}
	cfg.Informers.Start(ctx.Done())
	if !toolscache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil // told to stop before the start was complete
	}
	s.log.Info("scheduling")
	for item := s.queue.Next(ctx); item != nil; item = s.queue.Next(ctx) {
		s.one(ctx, item)
	}
	s.writes.Wait()
	return nil
}

type scheduler struct {
	client kubernetes.Interface
	name   string
	log    *slog.Logger
	events record.EventRecorder
	cache  *cache
	queue  *queue.Queue
	slots  chan struct{}
	writes sync.WaitGroup
}

// one decides about one pod and leaves the writing to another goroutine.
func (s *scheduler) one(ctx context.Context, item *queue.Item) {
	p := place.NewPod(item.Pod)
	node, err := place.Decide(s.cache.view(), p, random(item))
	var unfit *place.Unfit
	switch {
	case errors.As(err, &unfit):
		s.queue.Park(item)
		s.write(ctx, func() { s.refuse(ctx, item.Pod, unfit) })
	case err != nil:
		s.queue.Retry(item)
		s.log.Error("decide", "pod", name(item.Pod), "err", err)
	default:
		s.cache.assume(p, node.API.Name)
		s.write(ctx, func() { s.bind(ctx, item, node.API.Name) })
	}
}

// random makes the choice among equal nodes depend on the pod alone, so that a run can be repeated.
func random(item *queue.Item) *rand.Rand {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(item.Pod.UID)) // a hash takes every byte
	return rand.New(rand.NewPCG(hash.Sum64(), uint64(item.Attempts)))
}

// write runs do beside the decisions, waiting while too many writes are under way.
func (s *scheduler) write(ctx context.Context, do func()) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	s.writes.Go(func() {
		defer func() { <-s.slots }()
		do()
	})
}

func (s *scheduler) bind(ctx context.Context, item *queue.Item, node string) {
	pod := item.Pod
	binding := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}
	err := s.client.CoreV1().Pods(pod.Namespace).Bind(ctx, binding, metav1.CreateOptions{})
	if err == nil {
		s.events.Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		s.queue.Remove(pod.UID)
		return
	}
	s.cache.forget(pod.UID)
	s.queue.Wake() // what was assumed is free again
	if apierrors.IsNotFound(err) {
		s.queue.Remove(pod.UID)
		return
	}
	if ctx.Err() != nil {
		return
	}
	s.log.Warn("bind, trying again", "pod", name(pod), "node", node, "err", err)
	s.events.Eventf(pod, corev1.EventTypeWarning, "FailedScheduling", "binding rejected: %v", err)
	s.queue.Retry(item)
}

func name(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

// watch connects the informers with the cache and the queue.
func (s *scheduler) watch(f informers.SharedInformerFactory) ([]toolscache.InformerSynced, error) {
	core := f.Core().V1()
	handlers := map[toolscache.SharedIndexInformer]toolscache.ResourceEventHandler{
		core.Pods().Informer():       handler(s.podChanged),
		core.Nodes().Informer():      handler(s.nodeChanged),
		core.Namespaces().Informer(): handler(s.namespaceChanged),
	}
	var synced []toolscache.InformerSynced
	for informer, h := range handlers {
		registration, err := informer.AddEventHandler(h)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		synced = append(synced, registration.HasSynced)
	}
	return synced, nil
}

// handler calls on with the old state (nil when added) and the new one (nil when deleted).
func handler[T any](on func(old, obj *T)) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if o, ok := obj.(*T); ok {
				on(nil, o)
			}
		},
		UpdateFunc: func(old, obj any) {
			o, ok := old.(*T)
			n, ok2 := obj.(*T)
			if ok && ok2 {
				on(o, n)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if o, ok := obj.(*T); ok {
				on(o, nil)
			}
		},
	}
}

func (s *scheduler) namespaceChanged(old, ns *corev1.Namespace) {
	if ns == nil {
		s.cache.setNamespace(old.Name, nil)
		return
	}
	set := labels.Set(ns.Labels)
	if set == nil {
		set = labels.Set{}
	}
	s.cache.setNamespace(ns.Name, set)
}
