// SPDX-License-Identifier: Apache-2.0

package kinds

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

var metaDoc = metav1.ObjectMeta{}.SwaggerDoc()

// Column is a column that kubectl always shows. kind is an OpenAPI type: string, integer, boolean.
func Column(name, kind, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Description: description}
}

// WideColumn is a column that kubectl shows with -o wide.
func WideColumn(name, kind, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Description: description, Priority: 1}
}

// NameColumn is the first column of nearly every table.
func NameColumn() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metaDoc["name"]}
}

// AgeColumn goes with Age.
func AgeColumn() metav1.TableColumnDefinition {
	return Column("Age", "string", metaDoc["creationTimestamp"])
}

// Age says how long ago t was, as kubectl users read it: 5m30s, 2d, <unknown>.
func Age(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}
