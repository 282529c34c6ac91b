// SPDX-License-Identifier: Apache-2.0

package events

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skep.dev/skep/controlplane/kinds/kindtest"
)

func full() *eventsv1.Event {
	now := metav1.NewTime(time.Unix(1_700_000_000, 0))
	micro := metav1.NewMicroTime(now.Time)
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "web", Labels: map[string]string{"a": "b"}},
		EventTime:  micro, Series: &eventsv1.EventSeries{Count: 3, LastObservedTime: micro},
		ReportingController: "c", ReportingInstance: "i", Action: "Binding", Reason: "Scheduled",
		Regarding: corev1.ObjectReference{Kind: "Pod", Name: "p", Namespace: "web"}, Related: &corev1.ObjectReference{Kind: "Node", Name: "n"},
		Note: "assigned", Type: "Normal", DeprecatedSource: corev1.EventSource{Component: "s", Host: "h"},
		DeprecatedFirstTimestamp: now, DeprecatedLastTimestamp: now, DeprecatedCount: 5,
	}
}

func TestConversionLosesNothing(t *testing.T) {
	s := runtime.NewScheme()
	if err := Event().View.AddConversions(s); err != nil {
		t.Fatal(err)
	}
	in := full()
	// No field may be forgotten: the example fills all of them.
	for i, v := 0, reflect.ValueOf(in).Elem(); i < v.NumField(); i++ {
		if v.Type().Field(i).Name != "TypeMeta" && v.Field(i).IsZero() {
			t.Fatalf("the example leaves out %s", v.Type().Field(i).Name)
		}
	}
	var stored corev1.Event
	var out eventsv1.Event
	if err := s.Convert(in, &stored, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Convert(&stored, &out, nil); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(in, &out); d != "" {
		t.Errorf("there and back (-want +got):\n%s", d)
	}
	list := &eventsv1.EventList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: []eventsv1.Event{*in, {}}}
	var storedList corev1.EventList
	var outList eventsv1.EventList
	if err := s.Convert(list, &storedList, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Convert(&storedList, &outList, nil); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(list, &outList); d != "" {
		t.Errorf("a list there and back (-want +got):\n%s", d)
	}
}

func TestNewEventsSayWhoAndWhat(t *testing.T) {
	stored := func() *corev1.Event {
		e := &corev1.Event{}
		toCore(full(), e)
		return e
	}
	kindtest.Create(t, Event(), stored, []struct {
		Name   string
		Change func(*corev1.Event)
		Want   []string
	}{
		{"a valid one", func(*corev1.Event) {}, nil},
		{"no time", func(e *corev1.Event) { e.EventTime = metav1.MicroTime{} }, []string{"eventTime: Required value"}},
		{"no controller", func(e *corev1.Event) { e.ReportingController = "" }, []string{"reportingController: Required value"}},
		{"no action", func(e *corev1.Event) { e.Action = "" }, []string{"action: Required value"}},
		{"an unknown type", func(e *corev1.Event) { e.Type = "Sad" }, []string{`type: Invalid value: "": has invalid value: Sad`}},
		{"another namespace", func(e *corev1.Event) { e.InvolvedObject.Namespace = "shop" }, []string{`involvedObject.namespace: Invalid value: "shop": does not match event.namespace`}},
	})
}

func TestSelectorsKnowBothNames(t *testing.T) {
	e := &corev1.Event{}
	toCore(full(), e)
	set := Event().Fields(e)
	for name, want := range map[string]string{"regarding.name": "p", "involvedObject.name": "p", "reportingController": "c", "reason": "Scheduled"} {
		if set[name] != want {
			t.Errorf("%s = %q, want %q", name, set[name], want)
		}
	}
}
