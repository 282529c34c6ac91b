// SPDX-License-Identifier: Apache-2.0

// Package loop runs a controller: a queue of object keys, workers that reconcile one key at a time, and retries
// with growing pauses.
package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
)

// Pauses between the tries of one key.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// ErrStale says that the cache does not show yet what this controller wrote itself. Trying again soon is all there is to do.
var ErrStale = errors.New("the cache lags behind our own writes")

// Env is what every controller gets.
type Env struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	// Events makes a recorder whose events name component as their source.
	Events func(component string) record.EventRecorder
	Logger *slog.Logger
	// Now is the clock.
	Now func() time.Time
}

// Controller is one loop. Run blocks until the context ends and leaves nothing behind.
type Controller interface {
	Run(ctx context.Context)
}

// Reconcile makes one object as it should be. It is called again after the returned time if that is above zero, and
// with growing pauses after an error.
type Reconcile func(ctx context.Context, key string) (again time.Duration, err error)

// Loop is a queue of keys and the function that handles them. Two workers never hold the same key.
type Loop struct {
	name      string
	workers   int
	log       *slog.Logger
	queue     workqueue.TypedRateLimitingInterface[string]
	reconcile Reconcile
}

// New makes a Loop; nothing runs before Run.
func New(name string, workers int, log *slog.Logger, reconcile Reconcile) *Loop {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry)
	return &Loop{
		name:      name,
		workers:   workers,
		log:       log.With("component", name),
		queue:     workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[string]{Name: name}),
		reconcile: reconcile,
	}
}

// Log is the logger of this loop.
func (l *Loop) Log() *slog.Logger { return l.log }

// Add queues a key; a key that is already waiting is not queued twice.
func (l *Loop) Add(key string) { l.queue.Add(key) }

// AddAfter queues a key later.
func (l *Loop) AddAfter(key string, d time.Duration) { l.queue.AddAfter(key, d) }

// AddObject queues the namespace/name key of an object, or of the last known state of a deleted one.
func (l *Loop) AddObject(obj any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		l.log.Error("object without a key", "err", err)
		return
	}
	l.queue.Add(key)
}

// Run handles keys until the context ends, and waits for the workers.
func (l *Loop) Run(ctx context.Context) {
	var workers sync.WaitGroup
	for range l.workers {
		workers.Go(func() {
			for l.one(ctx) {
			}
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	workers.Wait()
}

func (l *Loop) one(ctx context.Context) bool {
	key, shutdown := l.queue.Get()
	if shutdown {
		return false
	}
	defer l.queue.Done(key)
	if ctx.Err() != nil {
		return true
	}
	again, err := l.reconcile(ctx, key)
	switch {
	case err != nil && ctx.Err() != nil:
	case apierrors.IsConflict(err) || errors.Is(err, ErrStale):
		// Somebody wrote first, or it was us; the cache will show it in a moment.
		l.log.Debug("too early, trying again", "key", key, "err", err)
		l.queue.AddRateLimited(key)
	case err != nil:
		l.log.Warn("reconcile, trying again", "key", key, "err", err)
		l.queue.AddRateLimited(key)
	default:
		l.queue.Forget(key)
		if again > 0 {
			l.queue.AddAfter(key, again)
		}
	}
	return true
}

// object is a pointer to an API type.
type object[T any] interface {
	*T
	GetResourceVersion() string
}

// Handler calls on for every change of an object: with its old state (nil when added) and its new state (nil when
// deleted). Resyncs that change nothing are left out.
func Handler[T any, P object[T]](on func(old, obj P)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if o, ok := obj.(P); ok {
				on(nil, o)
			}
		},
		UpdateFunc: func(old, obj any) {
			o, ok := old.(P)
			n, ok2 := obj.(P)
			if ok && ok2 && o.GetResourceVersion() != n.GetResourceVersion() {
				on(o, n)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if o, ok := obj.(P); ok {
				on(o, nil)
			}
		},
	}
}

// Changes calls on with each object that was added, changed (its new state) or deleted (its last state).
func Changes[T any, P object[T]](on func(obj P)) cache.ResourceEventHandler {
	return Handler(func(old, obj P) {
		if obj == nil {
			obj = old
		}
		on(obj)
	})
}

// Split cuts a namespace/name key.
func Split(key string) (namespace, name string, err error) {
	namespace, name, err = cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return "", "", fmt.Errorf("read key %q: %w", key, err)
	}
	return namespace, name, nil
}

// Watch adds a handler to an informer. One that has been stopped takes none, which is no fault: informers are shared with others that
// have started them, and a process may be told to stop while its controllers are still being made.
func Watch(informer cache.SharedInformer, handler cache.ResourceEventHandler) {
	if _, err := informer.AddEventHandler(handler); err != nil && !informer.IsStopped() {
		panic(fmt.Sprintf("watch with an informer: %v", err))
	}
}
