package main

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// marks are the bars of a chart, or its points, with a whisker and a label
// each. It is a plot.Plotter.
type marks struct{ chart }

// Plot places the series of a group side by side in four fifths of its width.
func (m marks) Plot(dc draw.Canvas, p *plot.Plot) {
	toX, toY := p.Transforms(&dc)
	slot := (toX(1) - toX(0)) * 4 / 5 / vg.Length(len(m.series))
	width := min(slot*9/10, 40)
	for i, s := range m.series {
		for group, v := range s.values {
			if !v.ok() {
				continue
			}
			x := toX(float64(group)) + slot*(vg.Length(i)-vg.Length(len(m.series)-1)/2)
			if m.log {
				dc.DrawGlyph(draw.GlyphStyle{Color: s.colour, Radius: 5, Shape: draw.CircleGlyph{}}, vg.Point{X: x, Y: toY(v.median)})
			} else {
				dc.FillPolygon(s.colour, rectangle(x-width/2, toY(0), x+width/2, toY(v.median)))
			}
			top := toY(v.median)
			if m.log {
				top += 5
			}
			if v.max > v.min {
				whisker(dc, x, toY(v.min), toY(v.max))
				top = max(top, toY(v.max))
			}
			label := sans(9)
			label.XAlign = draw.XCenter
			dc.FillText(label, vg.Point{X: x, Y: top + 3}, threeDigits(v.median))
		}
	}
}

func whisker(dc draw.Canvas, x, low, high vg.Length) {
	line := draw.LineStyle{Color: color.Gray{0x30}, Width: 1}
	const half = 3
	dc.StrokeLine2(line, x, low, x, high)
	dc.StrokeLine2(line, x-half, low, x+half, low)
	dc.StrokeLine2(line, x-half, high, x+half, high)
}
