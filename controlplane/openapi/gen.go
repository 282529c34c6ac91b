// SPDX-License-Identifier: Apache-2.0

package openapi

//go:generate sh generate.sh
