# SPDX-License-Identifier: MIT
"""Makes the rendered pictures of the bundled gallery: plans, lays out, renders, annotates table-top scenes.

Only needed to make more pictures (README.md here says how); Patchify itself imports nothing from this folder.
Imports run one way:

    without Blender   config -> plan -> record;  config -> geometry -> composition;  catalogue;  lens
                      composition, plan -> layout;  catalogue, record -> attribution -> assemble (command)
    with Blender      geometry -> nodes -> materials, light, rendering;  catalogue, materials -> models
                      layout, materials, light, record -> stage;  all of these -> render_scenes (command)
"""
