// SPDX-License-Identifier: Apache-2.0

// Package controllertest runs the controllers and the scheduler against the real API server. Nodes are API objects only:
// the tests play their part and say how pods fare.
package controllertest
