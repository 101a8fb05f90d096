package main

import "strings"

// closest returns the candidate that takes the fewest edits to reach, whatever
// the case of letters, or "" if all take more than three, or more than half of
// the candidate's own letters.
func closest(word string, candidates []string) string {
	best, least := "", 4
	for _, c := range candidates {
		own := strings.TrimPrefix(c, envPrefix)
		if d := editDistance(strings.ToLower(word), strings.ToLower(c)); d < least && 2*d <= len(own) {
			best, least = c, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
