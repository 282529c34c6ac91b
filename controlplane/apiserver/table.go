// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"

	"skep.dev/skep/controlplane/kinds"
)

// tableConvertor prints a kind's columns, or name and age when the kind has none of its own.
type tableConvertor struct{ kind kinds.Kind }

func newTableConvertor(kind kinds.Kind) rest.TableConvertor {
	if kind.Row == nil {
		return rest.NewDefaultTableConvertor(groupResource(kind))
	}
	return tableConvertor{kind: kind}
}

func groupResource(k kinds.Kind) schema.GroupResource {
	return schema.GroupResource{Group: k.GroupVersionKind.Group, Resource: k.Resource}
}

func (c tableConvertor) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	table := &metav1.Table{}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		table.ColumnDefinitions = c.kind.Columns
	}
	add := func(item runtime.Object) error {
		o, ok := item.(kinds.Object)
		if !ok {
			return fmt.Errorf("a %T is no %s", item, c.kind.GroupVersionKind.Kind)
		}
		table.Rows = append(table.Rows, metav1.TableRow{Cells: c.kind.Row(o), Object: runtime.RawExtension{Object: item}})
		return nil
	}
	if !meta.IsListType(obj) {
		if m, err := meta.CommonAccessor(obj); err == nil {
			table.ResourceVersion = m.GetResourceVersion()
		}
		return table, add(obj)
	}
	if m, err := meta.ListAccessor(obj); err == nil {
		table.ResourceVersion = m.GetResourceVersion()
		table.Continue = m.GetContinue()
		table.RemainingItemCount = m.GetRemainingItemCount()
	}
	return table, meta.EachListItem(obj, add)
}
