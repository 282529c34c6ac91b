// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
)

// authorizationReviews answers "may X do Y" with the server's own authorizer.
type authorizationReviews struct {
	authorizer authorizer.Authorizer
	rules      authorizer.RuleResolver
}

func (a *authorizationReviews) add(r *registrar) {
	gv := authorizationv1.SchemeGroupVersion
	r.addVirtual(gv, "subjectaccessreviews", &review{
		singular: "subjectaccessreview",
		object:   func() runtime.Object { return &authorizationv1.SubjectAccessReview{} },
		answer: func(ctx context.Context, obj runtime.Object) error {
			o := obj.(*authorizationv1.SubjectAccessReview)
			return a.answer(ctx, obj, subject(o.Spec), o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes, &o.Status)
		},
	})
	r.addVirtual(gv, "localsubjectaccessreviews", &review{
		singular: "localsubjectaccessreview", namespaced: true,
		object: func() runtime.Object { return &authorizationv1.LocalSubjectAccessReview{} },
		answer: func(ctx context.Context, obj runtime.Object) error {
			return a.answerLocal(ctx, obj.(*authorizationv1.LocalSubjectAccessReview))
		},
	})
	r.addVirtual(gv, "selfsubjectaccessreviews", &review{
		singular: "selfsubjectaccessreview",
		object:   func() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} },
		answer: func(ctx context.Context, obj runtime.Object) error {
			o := obj.(*authorizationv1.SelfSubjectAccessReview)
			u, ok := genericrequest.UserFrom(ctx)
			if !ok {
				return apierrors.NewBadRequest("no user present on request")
			}
			return a.answer(ctx, obj, u, o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes, &o.Status)
		},
	})
	r.addVirtual(gv, "selfsubjectrulesreviews", &review{
		singular: "selfsubjectrulesreview",
		object:   func() runtime.Object { return &authorizationv1.SelfSubjectRulesReview{} },
		answer: func(ctx context.Context, obj runtime.Object) error {
			return a.answerRules(ctx, obj.(*authorizationv1.SelfSubjectRulesReview))
		},
	})
}

func subject(spec authorizationv1.SubjectAccessReviewSpec) user.Info {
	extra := map[string][]string{}
	for k, v := range spec.Extra {
		extra[k] = v
	}
	return &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups, Extra: extra}
}

func (a *authorizationReviews) answerLocal(ctx context.Context, o *authorizationv1.LocalSubjectAccessReview) error {
	namespace := genericrequest.NamespaceValue(ctx)
	if o.Spec.ResourceAttributes == nil {
		return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview").GroupKind(), "", field.ErrorList{
			field.Invalid(field.NewPath("spec.resourceAttributes"), o.Spec.ResourceAttributes, "must specify resourceAttributes")})
	}
	if o.Spec.ResourceAttributes.Namespace != namespace {
		return apierrors.NewBadRequest("spec.resourceAttributes.namespace must match namespace: " + namespace)
	}
	return a.answer(ctx, o, subject(o.Spec), o.Spec.ResourceAttributes, o.Spec.NonResourceAttributes, &o.Status)
}

func (a *authorizationReviews) answer(ctx context.Context, obj runtime.Object, who user.Info, resource *authorizationv1.ResourceAttributes,
	path *authorizationv1.NonResourceAttributes, status *authorizationv1.SubjectAccessReviewStatus) error {
	at := field.NewPath("spec")
	var errs field.ErrorList
	if (resource == nil) == (path == nil) {
		errs = append(errs, field.Invalid(at.Child("resourceAttributes"), resource,
			"exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if who.GetName() == "" && len(who.GetGroups()) == 0 {
		errs = append(errs, field.Invalid(at.Child("user"), who.GetName(), "at least one of user or group must be specified"))
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind(kindOf(obj)).GroupKind(), "", errs)
	}
	attributes, err := attributesOf(who, resource, path)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	decision, reason, err := a.authorizer.Authorize(ctx, attributes)
	*status = authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return nil
}

func kindOf(obj runtime.Object) string {
	switch obj.(type) {
	case *authorizationv1.SelfSubjectAccessReview:
		return "SelfSubjectAccessReview"
	case *authorizationv1.LocalSubjectAccessReview:
		return "LocalSubjectAccessReview"
	}
	return "SubjectAccessReview"
}

func attributesOf(who user.Info, r *authorizationv1.ResourceAttributes, p *authorizationv1.NonResourceAttributes) (authorizer.Attributes, error) {
	if p != nil {
		return authorizer.AttributesRecord{User: who, Verb: p.Verb, Path: p.Path}, nil
	}
	record := authorizer.AttributesRecord{
		User: who, Verb: r.Verb, Namespace: r.Namespace, APIGroup: r.Group, APIVersion: r.Version,
		Resource: r.Resource, Subresource: r.Subresource, Name: r.Name, ResourceRequest: true,
	}
	if record.APIVersion == "" {
		record.APIVersion = "*"
	}
	if s := r.LabelSelector; s != nil {
		requirements, err := labelRequirements(s)
		if err != nil {
			return nil, err
		}
		record.LabelSelectorRequirements = requirements
	}
	if s := r.FieldSelector; s != nil && s.RawSelector != "" {
		parsed, err := fields.ParseSelector(s.RawSelector)
		if err != nil {
			return nil, err
		}
		record.FieldSelectorRequirements = parsed.Requirements()
	}
	return record, nil
}

func labelRequirements(s *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if s.RawSelector != "" {
		parsed, err := labels.Parse(s.RawSelector)
		if err != nil {
			return nil, err
		}
		requirements, _ := parsed.Requirements()
		return requirements, nil
	}
	var all labels.Requirements
	for _, r := range s.Requirements {
		op, ok := selectionOperators[r.Operator]
		if !ok {
			continue // an unknown restriction may only be ignored, which asks for more
		}
		made, err := labels.NewRequirement(r.Key, op, r.Values)
		if err != nil {
			return nil, err
		}
		all = append(all, *made)
	}
	return all, nil
}

var selectionOperators = map[metav1.LabelSelectorOperator]selection.Operator{
	metav1.LabelSelectorOpIn: selection.In, metav1.LabelSelectorOpNotIn: selection.NotIn,
	metav1.LabelSelectorOpExists: selection.Exists, metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
}

func (a *authorizationReviews) answerRules(ctx context.Context, o *authorizationv1.SelfSubjectRulesReview) error {
	u, ok := genericrequest.UserFrom(ctx)
	if !ok {
		return apierrors.NewBadRequest("no user present on request")
	}
	if o.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	resources, paths, incomplete, err := a.rules.RulesFor(ctx, u, o.Spec.Namespace)
	o.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: incomplete,
	}
	if err != nil {
		o.Status.EvaluationError = err.Error()
	}
	for _, r := range resources {
		o.Status.ResourceRules = append(o.Status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: r.GetVerbs(), APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames()})
	}
	for _, r := range paths {
		o.Status.NonResourceRules = append(o.Status.NonResourceRules, authorizationv1.NonResourceRule{
			Verbs: r.GetVerbs(), NonResourceURLs: r.GetNonResourceURLs()})
	}
	return nil
}
