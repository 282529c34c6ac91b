// SPDX-License-Identifier: Apache-2.0

package intent

// Settled says that all that the informers have told so far is in the datapath. What they have in store but have not told yet, some
// milliseconds' worth, may not be.
func (t *Translator) Settled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.idle && len(t.queue) == 0
}

// rest notes whether something is left to hand over.
func (t *Translator) rest() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle = !t.pending.any()
}
