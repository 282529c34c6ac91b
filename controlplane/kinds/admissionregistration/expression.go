// SPDX-License-Identifier: Apache-2.0

package admissionregistration

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/cel-go/cel"
	v1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"skep.dev/skep/controlplane/kinds/check"
)

// expression is one CEL expression and what it may evaluate to.
type expression struct {
	name, source string
	types        []*cel.Type
}

func (e *expression) GetName() string          { return e.name }
func (e *expression) GetExpression() string    { return e.source }
func (e *expression) ReturnTypes() []*cel.Type { return e.types }

// compiler compiles the expressions of one object, so that a mistake is found when it is written, not when it first refuses a
// request.
type compiler struct {
	cel     *plugincel.CompositedCompiler
	declare plugincel.OptionalVariableDeclarations
}

func newCompiler(hasParams bool) (*compiler, error) {
	c, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return nil, fmt.Errorf("initialize CEL: %w", err)
	}
	return &compiler{cel: c, declare: plugincel.OptionalVariableDeclarations{HasParams: hasParams, HasAuthorizer: true}}, nil
}

func (c *compiler) variables(variables []v1.Variable, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, v := range variables {
		at := path.Index(i)
		if !identifier.MatchString(v.Name) {
			if v.Name == "" {
				errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
			} else {
				errs = append(errs, field.Invalid(at.Child("name"), v.Name, "name is not a valid CEL identifier"))
			}
		}
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
			continue
		}
		result := c.cel.CompileAndStoreVariable(&expression{name: v.Name, source: v.Expression, types: []*cel.Type{cel.AnyType, cel.DynType}},
			c.declare, environment.NewExpressions)
		errs = append(errs, celError(at.Child("expression"), v.Expression, result.Error)...)
	}
	return errs
}

var identifier = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func (c *compiler) expression(source string, declare plugincel.OptionalVariableDeclarations, path *field.Path, types ...*cel.Type) field.ErrorList {
	if strings.TrimSpace(source) == "" {
		return field.ErrorList{field.Required(path, "expression is not specified")}
	}
	result := c.cel.CompileCELExpression(&expression{source: source, types: types}, declare, environment.NewExpressions)
	return celError(path, source, result.Error)
}

func celError(path *field.Path, source string, err *apiservercel.Error) field.ErrorList {
	if err == nil {
		return nil
	}
	switch err.Type {
	case apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, err.Detail)}
	case apiservercel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, source, err.Detail)}
	}
	return field.ErrorList{field.InternalError(path, err)}
}

const maxMatchConditions = 64

func (c *compiler) matchConditions(conditions []v1.MatchCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(conditions) > maxMatchConditions {
		errs = append(errs, field.TooMany(path, len(conditions), maxMatchConditions))
	}
	names := sets.New[string]()
	for i, m := range conditions {
		at := path.Index(i)
		errs = append(errs, c.expression(m.Expression, c.declare, at.Child("expression"), cel.BoolType)...)
		if m.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, check.Invalid(at.Child("name"), m.Name, validation.IsQualifiedName(m.Name))...)
		if names.Has(m.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), m.Name))
		}
		names.Insert(m.Name)
	}
	return errs
}
