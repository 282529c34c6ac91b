// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"context"
	"testing"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

// TestAStopDuringTheStartIsNoFault makes a controller after the informers that it shares were started and stopped by somebody else.
func TestAStopDuringTheStartIsNoFault(t *testing.T) {
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	informer := factory.Core().V1().Pods().Informer()
	ctx, stop := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	stop()
	factory.Shutdown()
	Watch(informer, cache.ResourceEventHandlerFuncs{})
}
