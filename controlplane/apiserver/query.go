// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// decodeQuery fills the struct that into points to from a URL's query, by the fields' JSON names. A parameter
// without a value, as in "?follow", means true for a boolean.
func decodeQuery(query url.Values, into any) error {
	v := reflect.ValueOf(into).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		values, ok := query[name]
		if name == "" || !ok || len(values) == 0 {
			continue
		}
		if err := setField(v.Field(i), values); err != nil {
			return fmt.Errorf("query parameter %s: %w", name, err)
		}
	}
	return nil
}

func setField(f reflect.Value, values []string) error {
	if t, ok := f.Addr().Interface().(**metav1.Time); ok {
		return setTime(t, values[0])
	}
	switch f.Kind() {
	case reflect.Pointer:
		p := reflect.New(f.Type().Elem())
		if err := setField(p.Elem(), values); err != nil {
			return err
		}
		f.Set(p)
	case reflect.Slice:
		return setSlice(f, values)
	case reflect.String:
		f.SetString(values[0])
	case reflect.Bool:
		b, err := parseBool(values[0])
		f.SetBool(b)
		return err
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(values[0], 10, f.Type().Bits())
		f.SetInt(n)
		return err
	default:
		return fmt.Errorf("type %s cannot be read from a query", f.Type())
	}
	return nil
}

func setSlice(f reflect.Value, values []string) error {
	out := reflect.MakeSlice(f.Type(), 0, len(values))
	for _, value := range values {
		// Ports may also come as one list: ports=80,81.
		parts := []string{value}
		if f.Type().Elem().Kind() != reflect.String {
			parts = strings.Split(value, ",")
		}
		for _, part := range parts {
			item := reflect.New(f.Type().Elem()).Elem()
			if err := setField(item, []string{part}); err != nil {
				return err
			}
			out = reflect.Append(out, item)
		}
	}
	f.Set(out)
	return nil
}

func parseBool(s string) (bool, error) {
	if s == "" {
		return true, nil
	}
	return strconv.ParseBool(s)
}

func setTime(into **metav1.Time, s string) error {
	if s == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return err
	}
	*into = &metav1.Time{Time: t}
	return nil
}
