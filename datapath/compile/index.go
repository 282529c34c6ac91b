// SPDX-License-Identifier: Apache-2.0

package compile

// PortWays is how many ways a node of the index over port spans leads; bpf/skep/types.h says the same.
const PortWays = 15

// NoStart stands in a node for a way that leads nowhere.
const NoStart = ^uint32(0)

// PortNode holds the starts of the first spans below its ways.
type PortNode [PortWays]uint32

// PortLevels is the depth of the index over a number of spans.
func PortLevels(spans int) int {
	levels := 0
	for reach := 1; spans > 0 && (levels == 0 || reach < spans); reach *= PortWays {
		levels++
	}
	return levels
}

// PortNodes is how many nodes the index over a number of spans has: all but the last level are whole, so that a node's place
// follows from the way to it.
func PortNodes(spans int) int {
	nodes, width := 0, 1
	for level := PortLevels(spans); level > 1; level-- {
		nodes += width
		width *= PortWays
	}
	return nodes + (spans+PortWays-1)/PortWays
}

// PortIndex is the index over a set's spans, level by level from the root.
func PortIndex(spans []PortSpan) []PortNode {
	total := PortNodes(len(spans))
	index := make([]PortNode, 0, total)
	reach := 1 // spans below one way
	for level := 1; level < PortLevels(len(spans)); level++ {
		reach *= PortWays
	}
	for width := 1; len(index) < total; width *= PortWays {
		for way := 0; way < width*PortWays && len(index) < total; way += PortWays {
			var node PortNode
			for i := range node {
				node[i] = NoStart
				if first := (way + i) * reach; first < len(spans) {
					node[i] = spans[first].Start
				}
			}
			index = append(index, node)
		}
		reach /= PortWays
	}
	return index
}
