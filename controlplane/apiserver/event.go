// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// eventTTLSeconds is how long Events are kept.
const eventTTLSeconds = 3600

var (
	coreEvents = schema.GroupResource{Resource: "events"}
	newEvents  = schema.GroupResource{Group: "events.k8s.io", Resource: "events"}
)

// unwatched are the resources without a watch cache: Events are written far more often than they are read.
var unwatched = map[schema.GroupResource]bool{coreEvents: true, newEvents: true}

// expire makes the store forget Events after an hour, counted from their last update.
func expire(_ *registrar, r *resource) error {
	r.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return eventTTLSeconds, nil }
	return nil
}
